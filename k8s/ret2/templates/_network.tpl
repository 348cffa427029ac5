{{/* Rules that several network policies have in common. */}}

{{- define "ret2.from.metrics" -}}
{{- with .Values.networkPolicy.metricsFrom -}}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    - {port: metrics, protocol: TCP}
{{- end }}
{{- end }}

{{/* A port is that of the pods behind the DNS Service, which need not be 53. */}}
{{- define "ret2.to.dns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dnsTo | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ toJson . }}, protocol: UDP}
    - {port: {{ toJson . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{/* (dict "to" peers "port" 5432) */}}
{{- define "ret2.to.port" -}}
- ports:
    - {port: {{ .port | int }}, protocol: TCP}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Pods of this release, as a list of one */}}
{{- define "ret2.ownPeer" -}}
- podSelector:
    matchLabels:
      {{- include "ret2.selector" . | nindent 6 }}
{{- end }}

{{- define "ret2.to.database" -}}
{{- if .Values.database.bundled.enabled }}
{{- $own := include "ret2.ownPeer" (dict "root" . "component" "postgresql") | fromYamlArray }}
{{- include "ret2.to.port" (dict "to" $own "port" 5432) }}
{{- else }}
{{- include "ret2.to.port" (dict "to" .Values.networkPolicy.databaseTo "port" .Values.database.port) }}
{{- end }}
{{- end }}

{{- define "ret2.to.qdrant" -}}
{{- $to := .Values.networkPolicy.qdrantTo }}
{{- if .Values.qdrant.bundled.enabled }}
{{- $to = include "ret2.ownPeer" (dict "root" . "component" "qdrant") | fromYamlArray }}
{{- end }}
{{- include "ret2.to.port" (dict "to" $to "port" (include "ret2.portOf" (dict "url" (include "ret2.qdrantUrl" .) "without" "6333"))) }}
{{- with .Values.qdrant.grpcPort }}
{{ include "ret2.to.port" (dict "to" $to "port" .) }}
{{- end }}
{{- end }}

{{- define "ret2.to.tracing" -}}
{{- with .Values.tracing.endpoint -}}
{{- $port := include "ret2.portOf" (dict "url" . "without" (ternary "80" "443" (hasPrefix "http:" .))) }}
{{- include "ret2.to.port" (dict "to" $.Values.networkPolicy.tracingTo "port" $port) }}
{{- end }}
{{- end }}

{{/* Public addresses only: a URL in a document cannot name the cluster, its nodes or the cloud's metadata service. */}}
{{- define "ret2.to.internet" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3]
    - ipBlock:
        cidr: 2000::/3
        except: [2001:db8::/32, 2002::/16]
  ports:
    {{- range . }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{/* Of api and indexer. */}}
{{- define "ret2.egress.app" -}}
{{- include "ret2.to.dns" . }}
- to:
    - podSelector:
        matchLabels:
          {{- include "ret2.selector" (dict "root" . "component" "encoder") | nindent 10 }}
  ports:
    - {port: http, protocol: TCP}
{{- range .Values.encoder.others }}
{{ include "ret2.to.port" (dict "to" $.Values.networkPolicy.otherEncodersTo "port" (include "ret2.portOf" (dict "url" . "without" (ternary "80" "443" (hasPrefix "http:" .))))) }}
{{- end }}
{{- $blobs := include "ret2.portOf" (dict "url" .Values.blobs.endpoint "without" (ternary "80" "443" (hasPrefix "http:" .Values.blobs.endpoint))) }}
{{ include "ret2.to.qdrant" . }}
{{ include "ret2.to.database" . }}
{{ include "ret2.to.port" (dict "to" .Values.networkPolicy.blobsTo "port" $blobs) }}
{{- if .Values.networkPolicy.fetchImages }}
{{ include "ret2.to.internet" (list 80 443) }}
{{- end }}
{{- with include "ret2.to.tracing" . }}
{{ . }}
{{- end }}
{{- end }}

{{/* (dict "url" … "without" the port of a URL that names none) */}}
{{- define "ret2.portOf" -}}
{{- regexFind ":[0-9]+$" (urlParse .url).host | trimPrefix ":" | default .without -}}
{{- end }}
