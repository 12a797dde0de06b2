#!/bin/bash
# drain.sh WAIT LONGEST: for a container that is about to be told to end, which Ollama answers by dropping what it has begun. Waits WAIT seconds, until
# nobody is sent here any more, and then while clients are connected, at most LONGEST seconds.
set -euo pipefail

connected() { # a connection at our port (2CAA is 11434) in state ESTABLISHED (01), from anywhere but this container
  awk '$2 ~ /:2CAA$/ && $4 == "01" && $3 !~ /^(0100007F|00000000000000000000000001000000|0000000000000000FFFF00000100007F):/ { found = 1 } END { exit !found }' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

sleep "$1"
for ((left = $2; left > 0; left--)); do
  connected || exit 0
  sleep 1
done
