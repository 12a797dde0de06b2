#!/bin/sh
# init.sh: make what compose.yaml reads and a repository cannot hold: .env, an API key and a folder for certificates. What is there is left as it is.
set -eu
umask 077
cd "$(dirname "$0")"

if [ ! -f .env ]; then
  cp .env.example .env
  # checkpoints are often readable for their owner alone: the containers run as who made them, unless that is root
  [ "$(id -u)" = 0 ] || printf 'RUN_AS=%s:%s\n' "$(id -u)" "$(id -g)" >>.env
  echo "made .env: set MODEL_DIR and MODEL_NAME in it"
fi
if [ ! -f api_key ]; then
  od -A n -N 32 -t x1 /dev/urandom | tr -d ' \n' >api_key.new
  chmod 0444 api_key.new # the container's user must read it; where this folder is shared, keep the key elsewhere and set API_KEY_FILE
  mv api_key.new api_key
  echo "made api_key: clients send it as 'Authorization: Bearer KEY'"
fi
[ -d tls ] || mkdir -m 0755 tls
