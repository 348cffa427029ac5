{{/*
A store of this release's own, to try it with: one pod on one volume, its Service, and who may call it. It calls nobody.
(dict "root" $ "component" "qdrant" "bundled" its values "ports" {name: number} "callers" [component, …] "data" where its volume is
 "scratch" [path, …] written to and lost "container" its environment and probes)
*/}}
{{- define "ret2.store" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "ret2.metadata" . | nindent 2 }}
spec:
  type: ClusterIP
  selector:
    {{- include "ret2.selector" . | nindent 4 }}
  ports:
    {{- range $name, $port := .ports }}
    - {name: {{ $name }}, port: {{ $port }}, targetPort: {{ $name }}, protocol: TCP}
    {{- end }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "ret2.metadata" . | nindent 2 }}
spec:
  serviceName: {{ include "ret2.componentName" . | quote }}
  replicas: 1
  selector:
    matchLabels:
      {{- include "ret2.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "ret2.ownLabels" . | nindent 8 }}
      {{- with .root.Values.commonAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "ret2.podBasics" .root | nindent 6 }}
      {{- with .bundled.pod }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      terminationGracePeriodSeconds: 60 # it writes what is in memory
      containers:
        - name: {{ .component }}
          image: {{ include "ret2.image" (dict "image" .bundled.image "chart" .root.Chart "name" .component "variant" "") | quote }}
          imagePullPolicy: {{ .bundled.image.pullPolicy }}
          {{- include "ret2.containerSecurity" .root | nindent 10 }}
          {{- .container | nindent 10 }}
          ports:
            {{- range $name, $port := .ports }}
            - {name: {{ $name }}, containerPort: {{ $port }}, protocol: TCP}
            {{- end }}
          resources:
            {{- toYaml .bundled.resources | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: {{ .data }}}
            {{- range .scratch }}
            - {name: tmp, mountPath: {{ . }}, subPath: {{ base . }}}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 256Mi
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "ret2.selector" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .bundled.storageClass }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ .bundled.storage }}
{{- if .root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "ret2.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "ret2.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        {{- range .callers }}
        {{- include "ret2.ownPeer" (dict "root" $.root "component" .) | nindent 8 }}
        {{- end }}
      ports:
        {{- range $name, $_ := .ports }}
        - {port: {{ $name }}, protocol: TCP}
        {{- end }}
  egress: []
{{- end }}
{{- end }}
