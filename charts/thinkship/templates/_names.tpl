{{/* What each engine is known to do; images/<engine> and toolkit/engines are where these facts come from. */}}
{{- define "thinkship.facts" -}}
vllm:
  port: 8000
  health: [python, /opt/thinkship/healthcheck.py, "8000"]
  alive: {httpGet: {path: /health, port: http}}
  queue: vllm:num_requests_waiting
  key: true
ollama:
  port: 11434
  health: [/opt/thinkship/healthcheck.sh]
  alive: {httpGet: {path: /api/version, port: http}}
  drain: [/opt/thinkship/drain.sh]
llamacpp:
  port: 8080
  health: [python, /opt/thinkship/healthcheck.py, "8080"]
  alive: {tcpSocket: {port: http}}
  queue: llamacpp:requests_deferred
  key: true
{{- end }}

{{/* The engines that are stated, as YAML: their values over the defaults, with their facts. */}}
{{- define "thinkship.engines" -}}
{{- $facts := include "thinkship.facts" . | fromYaml }}
{{- $given := dict }}
{{- range $name, $stated := .Values.engines }}
{{- if $stated }}
{{- $usual := dict "args" list "env" dict "replicas" 1 "maxSurge" 1 "gpus" 0 "resources" dict "startupSeconds" 600 "drainSeconds" 60 "service" dict "host" "" "cache" dict "shm" "2Gi" "autoscaling" dict }}
{{- $_ := set $given $name (merge (dict "facts" (index $facts $name)) (deepCopy $stated) $usual) }}
{{- end }}
{{- end }}
{{- toYaml $given }}
{{- end }}

{{- define "thinkship.fullname" -}}
{{- printf "%s-%s" .root.Release.Name .part | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "thinkship.selector" -}}
app.kubernetes.io/name: thinkship
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* Whom the Service asks: this release's pods, or the pods of every release that serves as it. */}}
{{- define "thinkship.asked" -}}
{{- if eq .root.Values.serves .root.Release.Name -}}
app.kubernetes.io/name: thinkship
app.kubernetes.io/component: {{ .part }}
thinkship/serves: {{ .root.Values.serves }}
{{- else -}}
{{- include "thinkship.selector" . }}
{{- end }}
{{- end }}

{{- define "thinkship.labels" -}}
{{ include "thinkship.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "thinkship.port" -}}
{{ .engine.service.port | default .engine.facts.port }}
{{- end }}

{{/* The metadata of an object: root, part and kind of its name. */}}
{{- define "thinkship.metadata" -}}
name: {{ include "thinkship.fullname" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "thinkship.labels" . | nindent 2 }}
{{- end }}
