{{/* Everything that is wrong with the values, and with the cluster where it can be asked, said at once and before anything is changed. */}}
{{- define "thinkship.require" -}}
{{- $problems := concat (include "thinkship.wrongValues" . | fromYamlArray) (include "thinkship.wrongCluster" . | fromYamlArray) }}
{{- if $problems }}
{{- fail (printf "\n  - %s" (join "\n  - " $problems)) }}
{{- end }}
{{- end }}

{{- define "thinkship.wrongValues" -}}
{{- $engines := include "thinkship.engines" . | fromYaml }}
{{- $load := .Values.model.load }}
{{- $volume := .Values.model.volume }}
{{- if not $engines }}
- "engines: none is stated; `thinkship export k8s RECIPE` writes them"
{{- end }}
{{- if not .Values.name }}
- "name: is empty; it is the name that clients ask for"
{{- end }}
{{- if and (not .Values.apiKey.secret) (not .Values.apiKey.none) }}
- "apiKey/secret: names no Secret; `kubectl create secret generic NAME --from-literal=api-key=$(openssl rand -hex 32)`, or state apiKey.none: true to serve everybody"
{{- end }}
{{- if and .Values.apiKey.secret .Values.apiKey.none }}
- "apiKey: names a Secret and says none: true; keep one of them"
{{- end }}
{{- if and $volume (ne (len $volume) 1) }}
- "model/volume: names {{ len $volume }} kinds of volume; keep one"
{{- end }}
{{- if and (hasKey $volume "emptyDir") (not $load.from) }}
- "model/volume: an emptyDir is empty; state model.load.from, or a volume that holds the model"
{{- end }}
{{- if and $load.from (or (not $volume) (hasKey $volume "image")) }}
- "model/load/from: there is no volume to load into; state an emptyDir, a claim or a hostPath as model.volume"
{{- end }}
{{- if and $load.from (not .Values.model.files) }}
- "model/load/from: model.files does not say what is loaded; `thinkship export k8s` writes it"
{{- end }}
{{- if ne (hasPrefix "file://" $load.from) (not (empty $load.source)) }}
- "model/load: from: file:///source and source go together"
{{- end }}
{{- if and (hasKey $volume "image") (semverCompare "<1.31-0" .Capabilities.KubeVersion.Version) }}
- "model/volume/image: Kubernetes {{ .Capabilities.KubeVersion.Version }} cannot mount images; 1.31 with the feature gate ImageVolume can. Use `thinkship images model` or another volume"
{{- end }}
{{- $hosts := dict }}{{ $ports := dict }}
{{- range $name, $engine := $engines }}
{{- if gt (len (printf "%s-%s" $.Release.Name $name)) 57 }}
- "the release's name {{ $.Release.Name }} is too long; 48 characters are the most"
{{- end }}
{{- with $engine.host }}
{{- if hasKey $hosts . }}
- "engines/{{ $name }}/host: {{ . }} is the host of {{ index $hosts . }} too"
{{- end }}
{{- $_ := set $hosts . $name }}
{{- end }}
{{- with $engine.service.nodePort }}
{{- if hasKey $ports (toString .) }}
- "engines/{{ $name }}/service/nodePort: {{ . }} is the port of {{ index $ports (toString .) }} too"
{{- end }}
{{- $_ := set $ports (toString .) $name }}
{{- end }}
{{- if and (not $engine.facts.key) (not $.Values.apiKey.none) (or $engine.host (ne ($engine.service.type | default "ClusterIP") "ClusterIP")) }}
- "engines/{{ $name }}: cannot ask for an API key and would be open to everybody; leave out host and service.type and put a proxy before it, or state apiKey.none: true"
{{- end }}
{{- if and $engine.autoscaling (not $engine.facts.queue) }}
- "engines/{{ $name }}/autoscaling: {{ $name }} has no metrics to scale by; state replicas"
{{- end }}
{{- with $engine.autoscaling }}
{{- if and (eq .type "keda") (not .prometheus) }}
- "engines/{{ $name }}/autoscaling/prometheus: keda reads the queue there, and no address is stated"
{{- end }}
{{- if gt (int .min) (int .max) }}
- "engines/{{ $name }}/autoscaling: min {{ .min }} is more than max {{ .max }}"
{{- end }}
{{- end }}
{{- $drain := regexFind "--shutdown-timeout[ =][0-9]+" (join " " $engine.args) | regexFind "[0-9]+" | default "0" | int }}
{{- if gt $drain (int $engine.drainSeconds) }}
- "engines/{{ $name }}/drainSeconds: {{ $engine.drainSeconds }} is less than the engine's own --shutdown-timeout {{ $drain }}: begun answers would be cut off"
{{- end }}
{{- $spread := regexFind "--tensor-parallel-size[ =][0-9]+" (join " " $engine.args) | regexFind "[0-9]+" | default "1" | int }}
{{- if and (gt (int $engine.gpus) 0) (ne $spread (int $engine.gpus)) (eq $name "vllm") (not (regexMatch "--pipeline-parallel-size" (join " " $engine.args))) }}
- "engines/{{ $name }}/gpus: {{ $engine.gpus }}, and the engine spreads over {{ $spread }} (--tensor-parallel-size)"
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not $hosts) }}
- "ingress: no engine states the host by which it is reached"
{{- end }}
{{- if and .Values.httpRoute.enabled (not $hosts) }}
- "httpRoute: no engine states the host by which it is reached"
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
- "httpRoute/parentRefs: names no Gateway"
{{- end }}
{{- end }}

{{/* Only on a live cluster: `helm template` finds nothing there, which is told by the namespace's own service account. */}}
{{- define "thinkship.wrongCluster" -}}
{{- if and .Values.preflight.enabled (lookup "v1" "ServiceAccount" .Release.Namespace "default") }}
{{- with .Values.apiKey.secret }}
{{- $found := lookup "v1" "Secret" $.Release.Namespace . }}
{{- if not $found }}
- "apiKey/secret: there is no Secret {{ . }} in {{ $.Release.Namespace }}; `kubectl create secret generic {{ . }} --namespace {{ $.Release.Namespace }} --from-literal={{ $.Values.apiKey.key }}=$(openssl rand -hex 32)`"
{{- else if not (index ($found.data | default dict) $.Values.apiKey.key) }}
- "apiKey/key: the Secret {{ . }} holds no {{ $.Values.apiKey.key }}"
{{- end }}
{{- end }}
{{- with .Values.model.volume.persistentVolumeClaim }}
{{- $claim := lookup "v1" "PersistentVolumeClaim" $.Release.Namespace .claimName }}
{{- $bytes := include "thinkship.bytes" $ | float64 }}
{{- if not $claim }}
- "model/volume: there is no PersistentVolumeClaim {{ .claimName }} in {{ $.Release.Namespace }}"
{{- else if lt (include "thinkship.quantity" $claim.spec.resources.requests.storage | float64) $bytes }}
- "model/volume: the claim {{ .claimName }} asks for {{ $claim.spec.resources.requests.storage }}, and the model has {{ divf $bytes 1e9 | printf "%.2f" }} GB"
{{- end }}
{{- end }}
{{- $gpus := 0 }}
{{- range $_, $engine := include "thinkship.engines" . | fromYaml }}{{ $gpus = max $gpus (int $engine.gpus) }}{{ end }}
{{- if and $gpus .Values.preflight.nodes }}
{{- $most := 0 }}
{{- range (lookup "v1" "Node" "" "").items }}{{ $most = max $most (index .status.allocatable "nvidia.com/gpu" | default 0 | int) }}{{ end }}
{{- if lt $most $gpus }}
- "engines: {{ $gpus }} GPUs are wanted for a replica, and no node offers more than {{ $most }} (nvidia.com/gpu); install NVIDIA's device plugin, or state preflight.nodes: false where nodes come on demand"
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The model's bytes. */}}
{{- define "thinkship.bytes" -}}
{{- $sum := 0 }}
{{- range .Values.model.files }}{{ $sum = add $sum (int64 .size) }}{{ end }}
{{- $sum }}
{{- end }}

{{/* A quantity of Kubernetes in bytes. */}}
{{- define "thinkship.quantity" -}}
{{- $units := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 }}
{{- mulf (regexFind "^[0-9.]+" . | float64) (index $units (regexFind "[kMGTP]?i?$" .)) }}
{{- end }}

{{/* Seconds after which a roll-out counts as failed: the start, and the loading or checking before it at 20 MB/s or 200 MB/s. */}}
{{- define "thinkship.deadline" -}}
{{- $rate := ternary 20000000 200000000 (ne .root.Values.model.load.from "") }}
{{- add .engine.startupSeconds 120 (div (include "thinkship.bytes" .root | int64) $rate) }}
{{- end }}
