{{/* (dict "root" $ "component" … "autoscaling" …): what scales a deployment, and what may be taken of it. */}}

{{/* What this release's series have in common: the ServiceMonitor sees to job and release, the operator to namespace. */}}
{{- define "ret2.series" -}}
{{- printf "job=\"ret2\",namespace=\"%s\",release=\"%s\"" .Release.Namespace .Release.Name -}}
{{- end }}

{{- define "ret2.hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "ret2.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "ret2.componentName" . | quote }}
  minReplicas: {{ toJson .autoscaling.minReplicas }}
  maxReplicas: {{ toJson .autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ toJson .autoscaling.cpuPercent }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: 300
{{- end }}

{{/* More of the dict: "query", "threshold". While Prometheus does not answer there are fallbackReplicas. */}}
{{- define "ret2.scaledObject" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "ret2.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "ret2.componentName" . | quote }}
  minReplicaCount: {{ toJson .autoscaling.minReplicas }}
  maxReplicaCount: {{ toJson .autoscaling.maxReplicas }}
  pollingInterval: 15
  cooldownPeriod: {{ toJson .autoscaling.cooldownS }}
  fallback:
    failureThreshold: 4
    replicas: {{ toJson .autoscaling.fallbackReplicas }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: {{ toJson .autoscaling.cooldownS }}
          policies:
            - {type: Pods, value: 1, periodSeconds: 60}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.metrics.prometheusUrl | quote }}
        query: {{ .query | quote }}
        threshold: {{ include "ret2.text" .threshold | quote }}
        ignoreNullValues: "false" # no such metric is a failure, not a zero
      {{- with .root.Values.metrics.prometheusAuth }}
      authenticationRef:
        name: {{ . | quote }}
      {{- end }}
{{- end }}

{{/* How many pods there are at least. */}}
{{- define "ret2.leastPods" -}}
{{- $own := index .root.Values .component -}}
{{- $scaled := or (dig "enabled" false $own.autoscaling) (ne (dig "kind" "none" $own.autoscaling) "none") -}}
{{- ternary $own.autoscaling.minReplicas $own.replicas $scaled -}}
{{- end }}

{{/* Only where there are two pods or more: of a single one it would stop every drain of its node. */}}
{{- define "ret2.pdb" -}}
{{- if ge (include "ret2.leastPods" . | int) 2 -}}
{{- $own := index .root.Values .component -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "ret2.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ toJson $own.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "ret2.selector" . | nindent 6 }}
{{- end -}}
{{- end }}
