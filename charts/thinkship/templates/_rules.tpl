{{/* When somebody is woken up: nobody answers, fewer replicas than wanted, a roll-out that is stuck, restarts; and what files/rules.yaml says, of this engine alone. */}}
{{- define "thinkship.rules" -}}
{{- $name := include "thinkship.fullname" . }}
{{- $namespace := .root.Release.Namespace }}
- alert: ThinkshipNoReplicaAnswers
  expr: kube_deployment_status_replicas_ready{namespace="{{ $namespace }}",deployment="{{ $name }}"} == 0
  for: 1m
  labels: {severity: critical}
  annotations: {summary: "{{ $name }} answers nobody"}
- alert: ThinkshipReplicasMissing
  expr: kube_deployment_status_replicas_ready{namespace="{{ $namespace }}",deployment="{{ $name }}"} < kube_deployment_spec_replicas{namespace="{{ $namespace }}",deployment="{{ $name }}"}
  for: {{ add .engine.startupSeconds 120 }}s
  labels: {severity: warning}
  annotations: {summary: "{{ $name }} has fewer ready replicas than wanted for longer than one takes to start"}
- alert: ThinkshipRolloutStuck
  expr: kube_deployment_status_condition{namespace="{{ $namespace }}",deployment="{{ $name }}",condition="Progressing",status="false"} == 1
  labels: {severity: warning}
  annotations: {summary: "the new pods of {{ $name }} are not ready within their time; the old ones go on serving"}
- alert: ThinkshipRestarts
  expr: increase(kube_pod_container_status_restarts_total{namespace="{{ $namespace }}",container="{{ .part }}",pod=~"{{ $name }}-.*"}[30m]) > 2
  labels: {severity: warning}
  annotations: {summary: "{{ $name }} was started again three times in half an hour"}
{{- $ours := printf "{namespace=\"%s\",service=\"%s\"," $namespace $name }}
{{- $groups := list (printf "thinkship-%s" .part) }}
{{- if .root.Values.monitoring.watch }}{{ $groups = append $groups "thinkship-watch" }}{{ end }}
{{- range (.root.Files.Get "files/rules.yaml" | fromYaml).groups }}
{{- if has .name $groups }}
{{- range .rules }}
- {{ toYaml (set . "expr" (.expr | replace "{" $ours)) | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
