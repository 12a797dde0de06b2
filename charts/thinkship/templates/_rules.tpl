{{/* When somebody is woken up: nobody answers, fewer replicas than wanted, requests wait, answers without thinking, restarts. */}}
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
- alert: ThinkshipRestarts
  expr: increase(kube_pod_container_status_restarts_total{namespace="{{ $namespace }}",container="{{ .part }}",pod=~"{{ $name }}-.*"}[30m]) > 2
  labels: {severity: warning}
  annotations: {summary: "{{ $name }} was started again three times in half an hour"}
{{- with .engine.facts.queue }}
- alert: ThinkshipRequestsWait
  expr: sum({{ . }}{namespace="{{ $namespace }}",service="{{ $name }}"}) > 0
  for: 5m
  labels: {severity: warning}
  annotations: {summary: "requests to {{ $name }} have waited for a place for five minutes"}
{{- end }}
{{- if .root.Values.monitoring.watch }}
- alert: ThinkshipDoesNotThink
  expr: thinkship_consecutive_failures{namespace="{{ $namespace }}",pod=~"{{ $name }}-watch-.*"} >= 3
  labels: {severity: critical}
  annotations: {summary: "{{ $name }} has not answered, or not thought, three times in a row"}
{{- end }}
{{- end }}
