{{/* What pods have in common: the restricted security profile, probes, scheduling, the order of stopping. */}}

{{/* Of every pod, the hooks' included. */}}
{{- define "ret2.podBasics" -}}
automountServiceAccountToken: false
enableServiceLinks: false # a Service named ret2 would set RET2_PORT
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- range $field, $id := .Values.podSecurity }}
  {{ $field }}: {{ toJson $id }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Of every container, init containers and hooks included. */}}
{{- define "ret2.containerSecurity" -}}
securityContext:
  runAsNonRoot: true
  {{- range $field, $id := omit .Values.podSecurity "fsGroup" }}
  {{ $field }}: {{ toJson $id }}
  {{- end }}
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* (dict "root" $ "component" … "labels" …): labels and annotations of a deployment's pods */}}
{{- define "ret2.podMetadata" -}}
{{- $own := index .root.Values .component -}}
labels: # no versions: pods are replaced when what they run changes, not when the chart does
  {{- include "ret2.ownLabels" (merge (dict "labels" (merge (dict) (default dict .labels) $own.podLabels)) .) | nindent 2 }}
{{- with merge (dict) $own.podAnnotations .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ret2.scheduling" -}}
{{- $own := index .root.Values .component -}}
topologySpreadConstraints:
  {{- range $own.topologySpreadConstraints }}
  - labelSelector:
      matchLabels:
        {{- include "ret2.selector" $ | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "ret2.selector" . | nindent 8 }}
  {{- end }}
{{ include "ret2.placement" . }}
{{- end }}

{{/* Where pods may run; begins with a line break where there is something to say. */}}
{{- define "ret2.placement" -}}
{{- $own := index .root.Values .component -}}
{{- with $own.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $own.tolerations -}}
{{- if and (eq .component "encoder") (dig "gpu" "enabled" false $own) -}}
{{- $tolerations = concat (list (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule")) $tolerations -}}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
The order of stopping. The pod is taken out of its Service while preStop sleeps, SIGTERM turns readiness off and lets what is under way
finish, at most RET2_GRACE_S; the margin is for the process to end. Nothing is killed while these are kept.
*/}}
{{- define "ret2.gracePeriodS" -}}
{{- add .Values.drain.preStopS .Values.drain.graceS 5 -}}
{{- end }}

{{- define "ret2.preStop" -}}
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ include "ret2.text" .Values.drain.preStopS | quote }}]
{{- end }}

{{/* Takes startupS. /livez: is a restart needed; /readyz: has a forward worked and does all that is needed answer, within 5 s a check. */}}
{{- define "ret2.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add . 4) 5 }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 8
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* RET2_PORT and RET2_METRICS_PORT */}}
{{- define "ret2.ports" -}}
ports:
  - {name: http, containerPort: 8080, protocol: TCP}
  - {name: metrics, containerPort: 9090, protocol: TCP}
{{- end }}

{{- define "ret2.env.process" -}}
- name: RET2_HOST
  value: 0.0.0.0
- name: RET2_PORT
  value: "8080"
- name: RET2_METRICS_PORT
  value: "9090"
- name: RET2_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
- name: RET2_GRACE_S
  value: {{ include "ret2.text" .Values.drain.graceS | quote }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ $.Values.tracing.sampler | quote }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ $.Values.tracing.samplerArg | quote }}
{{- end }}
{{- end }}

{{/* Of api and indexer. */}}
{{- define "ret2.env.app" -}}
{{ include "ret2.env.process" . }}
- name: RET2_DATA_DIR
  value: /tmp/ret2
{{- if .Values.apiKeys.insecure }}
- name: RET2_INSECURE
  value: "true"
{{- else }}
- name: RET2_API_KEYS_FILE
  value: /etc/ret2/keys/api-keys
{{- end }}
- name: RET2_ENCODER_URL
  value: {{ prepend .Values.encoder.others (include "ret2.encoderUrl" .) | join "," | quote }}
- name: RET2_ENCODER_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.encoder.auth.existingSecret | quote }}
      key: {{ .Values.encoder.auth.key | quote }}
- name: RET2_QDRANT_URL
  value: {{ include "ret2.qdrantUrl" . | quote }}
{{- if .Values.qdrant.grpcPort }}
- name: RET2_QDRANT_GRPC_PORT
  value: {{ include "ret2.text" .Values.qdrant.grpcPort | quote }}
{{- else }}
- name: RET2_QDRANT_PREFER_GRPC
  value: "false"
{{- end }}
{{- with .Values.qdrant.existingSecret }}
- name: RET2_QDRANT_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ $.Values.qdrant.key | quote }}
{{- end }}
{{ include "ret2.env.database" . }}
- name: RET2_BLOBS_URL
  value: {{ .Values.blobs.url | quote }}
{{- with .Values.blobs.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.blobs.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.blobs.existingSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.blobs.existingSecret | quote }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ret2.env.database" -}}
- name: RET2_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret | quote }}
      key: {{ .Values.database.key | quote }}
{{- end }}

{{/* (list $ SETTINGS): what the values add. Last: of two variables of one name Kubernetes takes the last. */}}
{{- define "ret2.env.added" -}}
{{- range $name, $value := index . 1 }}
- name: {{ $name }}
  value: {{ include "ret2.text" $value | quote }}
{{- end }}
{{- with (index . 0).Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The container, volumes and rest of an api's or indexer's pod: they differ in their role and in having a Service to leave. */}}
{{- define "ret2.appPod" -}}
{{- $values := .root.Values -}}
{{- $own := index $values .component -}}
serviceAccountName: {{ include "ret2.serviceAccountName" .root | quote }}
{{ include "ret2.podBasics" .root }}
terminationGracePeriodSeconds: {{ include "ret2.gracePeriodS" .root }}
containers:
  - name: {{ .component }}
    image: {{ include "ret2.appImage" .root | quote }}
    imagePullPolicy: {{ $values.api.image.pullPolicy }}
    {{- include "ret2.containerSecurity" .root | nindent 4 }}
    env:
      - name: RET2_ROLE
        value: {{ .component }}
      {{- include "ret2.env.app" .root | nindent 6 }}
      {{- include "ret2.env.added" (list .root $own.settings) | nindent 6 }}
    {{- include "ret2.ports" . | nindent 4 }}
    {{- include "ret2.probes" $own.startupS | nindent 4 }}
    {{- include "ret2.preStop" .root | nindent 4 }}
    resources:
      {{- toYaml $own.resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if not $values.apiKeys.insecure }}
      - {name: api-keys, mountPath: /etc/ret2/keys, readOnly: true} # a folder: a changed Secret reaches it
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Gi
  {{- if not $values.apiKeys.insecure }}
  - name: api-keys
    secret:
      secretName: {{ $values.apiKeys.existingSecret | quote }}
      defaultMode: 0440
      items:
        - {key: {{ $values.apiKeys.key | quote }}, path: api-keys}
  {{- end }}
{{ include "ret2.scheduling" . }}
{{- end }}
