{{/* Names, labels and images. What takes a component is called with (dict "root" $ "component" "api"). */}}

{{- define "ret2.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "ret2.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "ret2.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "ret2.componentName" -}}
{{ include "ret2.fullname" .root }}-{{ .component }}
{{- end }}

{{- define "ret2.selector" -}}
app.kubernetes.io/name: {{ include "ret2.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of every object and pod; "labels" of the dict go before commonLabels. The schema refuses those that are ours. */}}
{{- define "ret2.ownLabels" -}}
{{ include "ret2.selector" . }}
app.kubernetes.io/part-of: ret2
{{- with merge (dict) (default dict .labels) .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ret2.labels" -}}
{{ include "ret2.ownLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{- define "ret2.metadata" -}}
name: {{ include "ret2.componentName" . | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "ret2.labels" . | nindent 2 }}
{{- end }}

{{/* A value as Kubernetes wants it in a variable. Numbers of values.yaml are floats: printed as they are, a million would be 1e+06. */}}
{{- define "ret2.text" -}}
{{- kindIs "string" . | ternary . (toJson .) -}}
{{- end }}

{{- define "ret2.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ret2.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* (dict "image" {repository, tag, digest} "chart" .Chart "name" "ret2-app" "variant" "-cpu", or none)
     A released chart has the digests of its images as annotations: the workflow of the release writes them. */}}
{{- define "ret2.image" -}}
{{- $released := index .chart.Annotations (print "digest/" .name .variant) -}}
{{- if or .image.digest (and $released (not .image.tag)) -}}
{{ .image.repository }}@{{ default $released .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default (print .chart.AppVersion .variant) .image.tag }}
{{- end -}}
{{- end }}

{{- define "ret2.appImage" -}}
{{- include "ret2.image" (dict "image" .Values.api.image "chart" .Chart "name" "ret2-app" "variant" "") -}}
{{- end }}

{{- define "ret2.encoderImage" -}}
{{- $variant := ternary "-cuda" "-cpu" .Values.encoder.gpu.enabled -}}
{{- include "ret2.image" (dict "image" .Values.encoder.image "chart" .Chart "name" "ret2-encoder" "variant" $variant) -}}
{{- end }}

{{- define "ret2.qdrantUrl" -}}
{{- if .Values.qdrant.bundled.enabled -}}
http://{{ include "ret2.fullname" . }}-qdrant.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:6333
{{- else -}}
{{ .Values.qdrant.url }}
{{- end -}}
{{- end }}

{{- define "ret2.encoderUrl" -}}
http://{{ include "ret2.fullname" . }}-encoder.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:8080
{{- end }}

{{/* What a pod's embeddings depend on. The encoder's Service selects one generation, so all pods behind it have the same models. */}}
{{- define "ret2.modelGeneration" -}}
{{- $model := .Values.model -}}
{{- $of := dict "source" $model.source "models" .Values.encoder.models -}}
{{- if eq $model.source "hub" -}}
{{- $_ := set $of "hub" (pick $model.hub "backbones") -}}
{{- else -}}
{{- $_ := set $of "volume" $model.volume -}}
{{- end -}}
{{- if eq $model.source "image" -}}
{{- $_ := set $of "image" (include "ret2.encoderImage" .) -}}
{{- end -}}
{{- $of | toJson | sha256sum | trunc 12 -}}
{{- end }}
