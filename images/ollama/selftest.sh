#!/bin/bash
# Prove inside the image that it creates and serves: a GGUF of one layer, written here, becomes a model, answers one token and is not created twice;
# the server ends when told to. One line of JSON, exit code 0.
set -euo pipefail
exec 4>&1 >&2 # what the tested programs say goes to standard error

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tokens=259 width=32 # <unk>, <s>, </s> and one token a byte
u32=4 i32=5 f32=6 string=8 array=9 # types of metadata in the GGUF specification

int() { # NUMBER: 32 bits, little end first
  printf -v hex '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255))
  printf '%b' "$hex"
}
long() { int "$1" && int 0; }
text() { long "${#1}" && printf '%s' "$1"; }
entry() { text "$1" && int "$2"; } # NAME TYPE, to be followed by the value
number() { entry "$1" $u32 && int "$2"; }
list() { entry "$1" $array && int "$2" && long $tokens; }

metadata() { # 14 entries
  entry general.architecture $string && text llama
  number llama.context_length 256
  number llama.embedding_length $width
  number llama.block_count 1
  number llama.feed_forward_length $width
  number llama.attention.head_count 1
  number llama.rope.dimension_count $width
  entry llama.attention.layer_norm_rms_epsilon $f32 && int $((0x3727c5ac)) # 1e-5
  entry tokenizer.ggml.model $string && text llama
  list tokenizer.ggml.tokens $string && text '<unk>' && text '<s>' && text '</s>'
  for ((byte = 0; byte < 256; byte++)); do printf -v name '<0x%02X>' "$byte" && text "$name"; done
  list tokenizer.ggml.scores $f32 && head -c $((4 * tokens)) /dev/zero
  list tokenizer.ggml.token_type $i32 && int 2 && int 3 && int 3 # unknown, control, then bytes
  for ((byte = 0; byte < 256; byte++)); do int 6; done
  number tokenizer.ggml.bos_token_id 1
  number tokenizer.ggml.eos_token_id 2
}

offset=0
tensor() { # NAME COLUMNS ROWS; all in 32-bit numbers that are 0, which is a model too: every token is as likely as any other
  text "$1.weight" && int $(($3 > 1 ? 2 : 1)) && long "$2"
  if (($3 > 1)); then long "$3"; fi
  int 0 && long $offset
  offset=$((offset + 4 * $2 * $3))
}

tensors() { # 11 tensors
  tensor token_embd $width $tokens
  tensor output_norm $width 1
  for name in attn_norm ffn_norm; do tensor blk.0.$name $width 1; done
  for name in attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down; do tensor blk.0.$name $width $width; done
}

write_gguf() { # FILE
  { printf GGUF && int 3 && long 11 && long 14 && metadata && tensors; } >"$1" # not in a subshell: `offset` is read below
  truncate -s %32 "$1" # the tensors begin at a multiple of 32 bytes
  head -c "$offset" /dev/zero >>"$1"
}

write_gguf "$folder/tiny.gguf"
printf 'FROM tiny.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 256\n' >"$folder/Modelfile"
export MODEL_NAME=tiny MODELFILE=$folder/Modelfile OLLAMA_MODELS=$folder/models OLLAMA_HOST=127.0.0.1:11434

began=$SECONDS
"$here/entrypoint.sh" create
[ -z "$("$here/entrypoint.sh" create 2>&1)" ] # made of the same files: nothing is done, nothing is said
"$here/entrypoint.sh" serve &
server=$!
until "$here/healthcheck.sh" 2>/dev/null; do
  kill -0 $server && [ $((SECONDS - began)) -lt 60 ] || { echo "the server did not answer"; exit 1; }
  sleep 0.2
done
kill $server && wait $server
printf '{"selftest": "ollama", "ok": true, "seconds": %d}\n' $((SECONDS - began)) >&4
