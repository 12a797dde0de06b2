#!/usr/bin/env bash
# overhead_apart.sh CADDY ROUNDS COMMAND...: runs overhead.py where engine, proxy and clients have processors of their own: on 0 to 7 the engine, which
# COMMAND starts with the name demo on port 18080 and the key that stands in the file API_KEY_FILE (images/llamacpp/serve.py and images/vllm/serve.py do), on 8
# and 9 Caddy with compose's Caddyfile as a deployment's door, on 10 to 15 eight clients. Without Docker; CADDY is the program. LIMIT: seconds for the start.
set -euo pipefail
caddy=$1 rounds=$2
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$place"' EXIT
engine=18080

printf 'sesame\n' >"$place/key"
printf '127.0.0.1:%s 127.0.0.1:%s 0000\n' "$engine" "$engine" >"$place/route"
sed -e "s|/run/secrets/api_key|$place/key|" -e "s|/deployment/route|$place/route|" "$here/compose/Caddyfile" >"$place/Caddyfile"

API_KEY_FILE=$place/key taskset -c 0-7 "$@" >"$place/engine.log" 2>&1 &
XDG_DATA_HOME=$place HOME=$place NAME=localhost TLS=internal ROUTE=deployed UPSTREAM=nobody taskset -c 8,9 \
  "$caddy" run --config "$place/Caddyfile" --adapter caddyfile >"$place/caddy.log" 2>&1 &

authority=$place/caddy/pki/authorities/local/root.crt
answers() {
  [ -f "$authority" ] && curl --silent --fail --cacert "$authority" --header "Authorization: Bearer sesame" --output /dev/null https://localhost:8443/v1/models
}
until answers; do
  if ((SECONDS > ${LIMIT:-120})); then
    tail "$place/engine.log" "$place/caddy.log"
    exit 1
  fi
  sleep 1
done

taskset -c 10-15 python3 "$here/benchmarks/overhead.py" --bare "http://127.0.0.1:$engine/v1" --layer https://localhost:8443/v1 --model demo --key-file "$place/key" \
  --authority "$authority" --rounds "$rounds"
