#!/usr/bin/env bash
# install.sh PREFIX: a real Ollama for a machine that has none, as PREFIX/bin/ollama with PREFIX/lib/ollama beside it, where Ollama looks for
# llama-server and llama-quantize. Ollama comes from the Go module proxy, the two programs from the llama.cpp inside llama-cpp-python's source
# distribution. CPU only; about 8 minutes on 2 cores, once. A killed build goes on where it was; what is there is not built again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
. "$here/versions.env"

fail() { # MESSAGE REMEDY CODE
  printf 'error: %s\nfix: %s\n' "$1" "$2" >&2
  exit "$3"
}

need() { # TOOL PACKAGE
  command -v "$1" >/dev/null || fail "$1 is not on PATH" "install $1 (Debian: apt-get install $2)" 4
}

build_ollama() { # PREFIX
  [ -x "$1/bin/ollama" ] && return
  need go golang-go
  # CGO is needed by Ollama's own sources; the version is what `ollama --version` prints and what REQUIRES is compared with
  GOFLAGS=-buildvcs=false GOBIN="$1/bin" nice go install -trimpath \
    -ldflags "-s -w -X github.com/ollama/ollama/version.Version=$OLLAMA_VERSION" "github.com/ollama/ollama@v$OLLAMA_VERSION"
}

fetch_sources() { # FOLDER
  [ -f "$1/.complete" ] && return
  rm -rf "$1" && mkdir -p "$1"
  printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$LLAMA_CPP_PYTHON_VERSION" "$LLAMA_CPP_PYTHON_SHA256" >"$1/sources.lock"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --require-hashes \
    --dest "$1" --requirement "$1/sources.lock" || fail "the sources of llama.cpp cannot be downloaded" "check the network or pip's index" 4
  tar -xzf "$1"/llama_cpp_python-*.tar.gz -C "$1" --strip-components=1
  touch "$1/.complete"
}

build_llama_cpp() { # PREFIX
  [ -x "$1/lib/ollama/llama-server" ] && [ -x "$1/lib/ollama/llama-quantize" ] && return
  need cmake cmake
  need ninja ninja-build
  need g++ g++
  fetch_sources "$1/.build/source"
  # GGML_NATIVE=OFF with AVX2 runs on any x86-64 machine of the last ten years, not only on the one that built it
  cmake -S "$1/.build/source/vendor/llama.cpp" -B "$1/.build/out" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DCMAKE_BUILD_RPATH="\$ORIGIN"
  nice cmake --build "$1/.build/out" --target llama-server llama-quantize --parallel "$(nproc)"
  mkdir -p "$1/lib/ollama"
  cp -a "$1"/.build/out/bin/. "$1/lib/ollama/"
  rm -rf "$1/.build"
}

[ $# -eq 1 ] || fail "install.sh takes one argument, the folder to install into" "install.sh \$HOME/.local/ollama" 2
case $(uname -m) in
  x86_64) ;;
  *) fail "only x86-64 is built here" "install Ollama from its own release" 4 ;;
esac
mkdir -p "$1"
build_ollama "$1"
build_llama_cpp "$1"
"$1/bin/ollama" --version 2>&1 | tail -n 1
