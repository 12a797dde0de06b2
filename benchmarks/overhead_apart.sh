#!/usr/bin/env bash
# overhead_apart.sh MODEL.gguf PYTHON CADDY [ROUNDS]: runs overhead.py where engine, proxy and clients have processors of their own: llama.cpp with six
# threads on 0 to 7, Caddy with compose's Caddyfile as a deployment's door on 8 and 9, eight clients on 10 to 15. Without Docker; PYTHON has xllamacpp.
set -euo pipefail
model=$1 python=$2 caddy=$3 rounds=${4:-24}
here=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$place"' EXIT
engine=18080

printf 'sesame\n' >"$place/key"
printf '127.0.0.1:%s 127.0.0.1:%s 0000\n' "$engine" "$engine" >"$place/route"
sed -e "s|/run/secrets/api_key|$place/key|" -e "s|/deployment/route|$place/route|" "$here/compose/Caddyfile" >"$place/Caddyfile"

API_KEY_FILE=$place/key taskset -c 0-7 "$python" "$here/images/llamacpp/serve.py" --model "$model" --alias demo --port "$engine" --context 1024 --parallel 8 --threads 6 \
  >"$place/engine.log" 2>&1 &
XDG_DATA_HOME=$place HOME=$place NAME=localhost TLS=internal ROUTE=deployed UPSTREAM=nobody taskset -c 8,9 \
  "$caddy" run --config "$place/Caddyfile" --adapter caddyfile >"$place/caddy.log" 2>&1 &

authority=$place/caddy/pki/authorities/local/root.crt
for _ in $(seq 120); do
  if [ -f "$authority" ] && curl --silent --fail --cacert "$authority" --header "Authorization: Bearer sesame" --output /dev/null https://localhost:8443/v1/models; then break; fi
  sleep 1
done
curl --silent --fail --cacert "$authority" --header "Authorization: Bearer sesame" --output /dev/null https://localhost:8443/v1/models || {
  tail "$place/engine.log" "$place/caddy.log"
  exit 1
}

taskset -c 10-15 python3 "$here/benchmarks/overhead.py" --bare "http://127.0.0.1:$engine/v1" --layer https://localhost:8443/v1 --model demo --key-file "$place/key" \
  --authority "$authority" --rounds "$rounds"
