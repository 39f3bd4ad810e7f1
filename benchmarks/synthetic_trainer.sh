#!/bin/sh
# Trains nothing at the cost of a copy: the update is the adapter with one number changed. What is not training is left
# to synthetic_trainer.py, which could do this too, but takes the start of an interpreter and of its libraries.
#   synthetic_trainer.sh PYTHON SHAPE ORDER_FOLDER
set -eu
python=$1 shape=$2
cd "$3"
if ! grep -q '"kind": *"train"' order.json; then
    exec "$python" -m benchmarks.synthetic_trainer "$shape" "$3"
fi
cp adapter.safetensors .update.partial
size=$(stat -c %s .update.partial)
last=$(($(pwd | cksum | cut -d ' ' -f 1) % 127 + 1))
# shellcheck disable=SC2059 # the format is the byte itself
printf "\\$(printf %o "$last")" | dd of=.update.partial bs=1 seek=$((size - 2)) conv=notrunc status=none
mv .update.partial update.safetensors
cat > .result.partial <<'RESULT'
{"kind": "train", "num_examples": 100, "num_label_tokens": 5000, "mean_loss": 1.0, "steps": 1, "seconds": 0.0,
 "tokens_per_second": 0.0, "padding_share": 0.0, "peak_memory_bytes": 0, "num_left_out": 0}
RESULT
mv .result.partial result.json
