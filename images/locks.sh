#!/bin/sh
# locks.sh UV: resolve each image's requirements.in again into a lock with hashes and without any index's address.
set -eu
cd "$(dirname "$0")"
for folder in train convert llamacpp vllm; do
  (
    cd "$folder"
    set -- "$1" pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 requirements.in -o requirements.lock
    [ -f overrides.txt ] && set -- "$@" --overrides overrides.txt
    [ -f excludes.txt ] && set -- "$@" --excludes excludes.txt
    "$@"
  )
done
