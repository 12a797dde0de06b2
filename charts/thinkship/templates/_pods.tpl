{{/* What every pod keeps: not root, nothing to write to but its own volumes, no token, the runtime's own seccomp profile. */}}
{{- define "thinkship.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.pod.user }}
  runAsGroup: {{ .Values.pod.user }}
  fsGroup: {{ .Values.pod.user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "thinkship.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a pod may be put. */}}
{{- define "thinkship.placement" -}}
{{- with .Values.pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* The key for a client of the release, as the OpenAI libraries read it. */}}
{{- define "thinkship.clientKey" -}}
{{- if and .root.Values.apiKey.secret .engine.facts.key }}
env:
  - name: OPENAI_API_KEY
    valueFrom: {secretKeyRef: {name: {{ .root.Values.apiKey.secret }}, key: {{ .root.Values.apiKey.key }}}}
{{- end }}
{{- end }}

{{/* Before an engine starts, the model is brought or checked: sizes and checksums are those of the store. */}}
{{- define "thinkship.loader" -}}
- name: model
  image: {{ .Values.images.tools }}
  {{- include "thinkship.container" . | nindent 2 }}
  command: [python, /opt/thinkship/load_model.py, /etc/thinkship/model.json, /models]
  env:
    {{- range $name, $value := .Values.model.load.env }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
  {{- with .Values.model.load.secret }}
  envFrom: [{secretRef: {name: {{ . }}}}]
  {{- end }}
  resources: {{- toYaml .Values.model.load.resources | nindent 4 }}
  volumeMounts:
    - {name: manifest, mountPath: /etc/thinkship, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    {{- include "thinkship.models" (dict "root" . "writable" (ne .Values.model.load.from "")) | nindent 4 }}
    {{- if .Values.model.load.source }}
    - {name: source, mountPath: /source, readOnly: true}
    {{- end }}
{{- end }}

{{- define "thinkship.models" -}}
{{- if .root.Values.model.volume }}
- name: models
  mountPath: /models
  readOnly: {{ not .writable }}
  {{- with .root.Values.model.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
