#!/bin/sh
# Trains nothing, at hardly any cost: the update is the adapter with one number changed, copied in every round (EACH) or
# in a site's first alone and linked from then on (ONCE), which leaves a round without training, and the same candidate in
# all of them. What is not training is left to synthetic_trainer.py, which could do this too, but takes the start of an
# interpreter and of its libraries.
#   synthetic_trainer.sh PYTHON SHAPE EACH|ONCE ORDER_FOLDER
set -eu
python=$1 shape=$2 copied=$3
cd "$4"
read -r order < order.json || test -n "$order" # it ends without a newline
case $order in
*'"kind":"train"'*) ;;
*) exec "$python" -m benchmarks.synthetic_trainer "$shape" "$4" ;;
esac
kept=../../kept-update.safetensors # in the agent's state folder
if ! { test "$copied" = ONCE && ln "$kept" update.safetensors 2> /dev/null; }; then
    cp adapter.safetensors .update.partial
    # A letter of the assignment's id as the low byte of a number far behind the header.
    dd of=.update.partial bs=1 seek=1000000 count=1 conv=notrunc status=none <<LETTER
${PWD#"${PWD%?}"}
LETTER
    mv .update.partial update.safetensors
    ln -f update.safetensors "$kept"
fi
cat > .result.partial <<'RESULT'
{"kind": "train", "num_examples": 100, "num_label_tokens": 5000, "mean_loss": 1.0, "steps": 1, "seconds": 0.0,
 "tokens_per_second": 0.0, "padding_share": 0.0, "peak_memory_bytes": 0, "num_left_out": 0}
RESULT
mv .result.partial result.json
