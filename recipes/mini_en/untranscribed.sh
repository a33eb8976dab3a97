#!/usr/bin/env bash
# Can a recogniser learn from questions where nobody wrote transcripts? On two cores:
#   bash recipes/mini_en/untranscribed.sh MANIFEST WORK
# MANIFEST names spoken sentences with questions: a collection. Two thirds of its clips are learnt from, with what the
# recogniser heard of them in place of transcripts, and the others are searched. WORK gets two arms of three seeds, and
# what each heard of the held-out clips; benchmarks/bridge.py compares them. A second run skips what is done.
# A trial: JSON=trial.json SEEDS=1 FLAGS="--max_steps 2".
set -euo pipefail
MANIFEST=$1 W=$2
PYTHON=${PYTHON:-python} SEEDS=${SEEDS:-1 2 3} CHECKPOINT=${CHECKPOINT:-default}
R=recipes/mini_en
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$W/sets/checkpoint"

$PYTHON $R/hear.py collection="$MANIFEST" --checkpoint "$CHECKPOINT" --out "$W/heard"
cp "$W/heard/collection.jsonl" "$W/sets/checkpoint/held_out.jsonl"
$PYTHON $R/collection.py "$MANIFEST" --heard "$W/heard" --out "$W"
for seed in $SEEDS; do
  for arm in joint control; do
    weight=0.5
    if [[ $arm == control ]]; then weight=0; fi
    if [[ ! -f $W/$arm-$seed/stamp.json ]]; then
      # shellcheck disable=SC2086
      $PYTHON train_clsr.py --config $R/untranscribed.yaml --model "$CHECKPOINT" --train_manifest "$W/pseudo.jsonl" \
        --contrastive_weight $weight --seed "$seed" --output_dir "$W/$arm-$seed" --cache_dir "$W/states" \
        --report_to none ${FLAGS:-}
    fi
    $PYTHON $R/hear.py held_out="$W/held_out/passages.jsonl" --checkpoint "$W/$arm-$seed" --out "$W/sets/$arm-$seed"
  done
done
$PYTHON benchmarks/bridge.py --heard "$W/sets" --set held_out="$W/held_out" \
  --json "${JSON:-benchmarks/results/untranscribed.json}"
