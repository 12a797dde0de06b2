#!/bin/bash
# entrypoint.sh serve|create|OTHER: `ollama serve` with the model MODEL_NAME, which is first created from MODELFILE unless it was made of these very
# files before; `create` ends there. Ollama writes a model's manifest last, so a killed creation is simply done again. Any other word is ollama's own.
set -euo pipefail

private=127.0.0.1:11435 # while a model is created, nobody is to find a server without one

fail() { # MESSAGE REMEDY
  printf 'error: %s\nfix: %s\n' "$1" "$2" >&2
  exit 4
}

find_sources() { # sets `wanted`, what the model is to be made of: the Modelfile's content, the weights' size and time
  [ -r "$MODELFILE" ] || fail "$MODELFILE cannot be read" "mount the folder with the Modelfile and its GGUF at /models, or set MODELFILE"
  local weights
  weights=$(sed -n '/^from /I{s/^[^ ]* *//p;q}' "$MODELFILE")
  case $weights in
    /*) ;;
    *) weights=$(dirname "$MODELFILE")/$weights ;;
  esac
  # Ollama would pull a model of that name where there is no such file
  [ -f "$weights" ] && [ -r "$weights" ] ||
    fail "FROM in $MODELFILE names $weights, which cannot be read" "mount the folder that holds it, or correct the line"
  wanted=$({ cat "$MODELFILE" && stat -L -c '%s %Y' "$weights"; } | sha256sum | cut -d ' ' -f 1)
}

wait_for_server() { # PID
  until (exec 3<>"/dev/tcp/${private/://}") 2>/dev/null; do
    kill -0 "$1" 2>/dev/null || fail "ollama does not start" "see its words above"
    sleep 0.1
  done
}

create() {
  local stamp="$OLLAMA_MODELS/.$MODEL_NAME.made-of" wanted
  [ -f "$stamp" ] && [ ! -e "$MODELFILE" ] && return # built into the image, without what it was made of
  find_sources
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  mkdir -p "$OLLAMA_MODELS" 2>/dev/null && [ -w "$OLLAMA_MODELS" ] ||
    fail "$OLLAMA_MODELS cannot be written to by user $(id -u)" "mount a fresh volume at /tmp/cache, or give the old one to that user"
  rm -f "$stamp"
  trap 'kill $(jobs -p) 2>/dev/null; exit 143' TERM INT
  OLLAMA_HOST=$private ollama serve &
  local server=$!
  wait_for_server "$server"
  OLLAMA_HOST=$private ollama create "$MODEL_NAME" -f "$MODELFILE" &
  wait $! || { kill "$server"; fail "ollama refuses $MODELFILE" "see its words above"; }
  kill "$server"
  wait "$server" || true
  trap - TERM INT
  printf '%s\n' "$wanted" >"$stamp"
}

case ${1:-serve} in
  serve)
    [ -z "${MODEL_NAME:-}" ] || create
    exec ollama serve
    ;;
  create)
    [ -n "${MODEL_NAME:-}" ] || fail "MODEL_NAME is not set" "set it to the name that clients ask for"
    create
    ;;
  *) exec ollama "$@" ;;
esac
