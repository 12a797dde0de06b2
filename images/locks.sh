#!/bin/sh
# locks.sh UV: resolve each image's requirements.in again into a lock with hashes and without any index's address, and show what moved.
set -eu
cd "$(dirname "$0")"

lock() { # FOLDER REQUIREMENTS LOCK [FLAGS...]: with the programs' Python of local runs; universal locks serve the images' newer one too
  folder=$1 requirements=$2 lock=$3
  shift 3
  (cd "$folder" && "$UV" pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
    "$requirements" -o "$lock" "$@")
}

UV=$1
for folder in train convert llamacpp lmeval; do
  lock "$folder" requirements.in requirements.lock
done
lock train tracking.in tracking.lock --constraint requirements.lock
lock train compress.in compress.lock --constraint requirements.lock
lock train unsloth.in unsloth.lock --excludes unsloth.excludes.txt
lock verify ../../pyproject.toml requirements.lock --no-emit-package uv --constraint ../../requirements.lock
lock vllm requirements.in requirements.lock --overrides overrides.txt --excludes excludes.txt
lock vllm requirements-cuda.in cuda.lock
git diff --unified=0 -- . ../requirements.lock | grep -E '^[+-][a-z0-9].*==' || echo "no version moved"
