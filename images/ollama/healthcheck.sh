#!/bin/bash
# healthcheck.sh [PORT]: exit 0 when MODEL_NAME answers one token of a chat (without MODEL_NAME: when Ollama answers at all), 1 with the reason when not.
set -euo pipefail

ask() { # METHOD PATH BODY
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  # HTTP/1.0: the server closes the connection after its answer, which ends cat
  printf '%s %s HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "$1" "$2" "${#3}" "$3" >&3
  timeout 25 cat <&3
}

port=${1:-11434}
if [ -n "${MODEL_NAME:-}" ]; then
  body='{"model": "%s", "messages": [{"role": "user", "content": "Hello"}], "stream": false, "options": {"num_predict": 1, "temperature": 0}}'
  # shellcheck disable=SC2059
  answer=$(ask POST /api/chat "$(printf "$body" "$MODEL_NAME")") || { echo "no answer"; exit 1; }
  wanted='"eval_count":[1-9]'
else
  answer=$(ask GET /api/version '') || { echo "no answer"; exit 1; }
  wanted='"version"'
fi
[[ $answer =~ $wanted ]] || { printf 'no token: %s\n' "${answer##*$'\n'}"; exit 1; }
echo "${MODEL_NAME:-ollama} answers"
