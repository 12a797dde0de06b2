#!/bin/sh
# pins.sh: write every pin of base.env into the Dockerfiles and the compose file that repeat it. `make pins` after a change of base.env.
set -eu
cd "$(dirname "$0")"

pin() { # ARGUMENT VALUE DOCKERFILE...
  name=$1 value=$2
  shift 2
  sed -i "s|^ARG $name=.*|ARG $name=$value|" "$@"
}

grep -E '^[A-Z_]+=' base.env | while IFS='=' read -r name value; do
  case $name in
    BASE_IMAGE) pin BASE_IMAGE "$value" convert/Dockerfile llamacpp/Dockerfile train/Dockerfile verify/Dockerfile vllm/Dockerfile ;;
    OLLAMA_IMAGE) pin BASE_IMAGE "$value" ollama/Dockerfile ;;
    *) pin "$name" "$value" ./*/Dockerfile ;;
  esac
  sed -i "s|\${$name:-[^}]*}|\${$name:-$value}|" ../compose/compose.yaml
done
git diff --unified=0 -- . ../compose | grep -E '^[+-](ARG|.*image:)' || echo "no pin moved"
