#!/usr/bin/env bash
# Can a recogniser learn from questions where nobody wrote transcripts? On two cores:
#   bash recipes/mini_en/untranscribed.sh MANIFEST WORK [ELSEWHERE]
# MANIFEST names spoken sentences with questions: a collection. Two thirds of its clips are learnt from, with what the
# recogniser heard of them in place of transcripts; then the others are searched, and the learnt ones by new questions.
# ELSEWHERE names clips by the same speaker about other things, which are searched, too.
# WORK gets two arms of three seeds, and what each heard; benchmarks/bridge.py compares them. A second run skips what is
# done.
# WEIGHT is that of the retrieval loss (1.0), FLAGS more arguments of train_clsr.py, of both arms.
# A trial: JSON=trial.json SEEDS=1 FLAGS="--max_steps 2".
set -euo pipefail
MANIFEST=$1 W=$2 ELSEWHERE=${3:-}
PYTHON=${PYTHON:-python} SEEDS=${SEEDS:-1 2 3} CHECKPOINT=${CHECKPOINT:-default}
R=recipes/mini_en
TRAINED="all the way" # the name, as of a condition, of what the weights heard that were not averaged
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$W/sets/checkpoint"

$PYTHON $R/hear.py collection="$MANIFEST" --checkpoint "$CHECKPOINT" --out "$W/heard"
for name in other_clips new_questions "new_questions-$TRAINED"; do
  cp "$W/heard/collection.jsonl" "$W/sets/checkpoint/$name.jsonl"
done
$PYTHON $R/collection.py "$MANIFEST" --heard "$W/heard" ${ELSEWHERE:+--elsewhere "$ELSEWHERE"} --out "$W"
sets=(other_clips new_questions) manifests=() folders=()
if [[ -n $ELSEWHERE ]]; then
  sets+=(other_articles)
  $PYTHON $R/hear.py "other_articles=$W/other_articles/passages.jsonl" --checkpoint "$CHECKPOINT" --out "$W/sets/checkpoint"
fi
for name in "${sets[@]}"; do
  manifests+=("$name=$W/$name/passages.jsonl") folders+=(--set "$name=$W/$name")
done
for seed in $SEEDS; do
  for arm in joint control; do
    trained=$W/trained/$arm-$seed averaged=$W/averaged/$arm-$seed
    weight=${WEIGHT:-1.0}
    if [[ $arm == control ]]; then weight=0; fi
    if [[ ! -f $trained/stamp.json ]]; then
      # shellcheck disable=SC2086
      $PYTHON train_clsr.py --config $R/untranscribed.yaml --model "$CHECKPOINT" --train_manifest "$W/pseudo.jsonl" \
        --contrastive_weight $weight --seed "$seed" --output_dir "$trained" --cache_dir "$W/states" \
        --report_to none ${FLAGS:-}
    fi
    if [[ ! -f $averaged/model.safetensors ]]; then
      $PYTHON $R/average.py "$trained" --base "$CHECKPOINT" --out "$averaged"
    fi
    $PYTHON $R/hear.py "${manifests[@]}" --checkpoint "$averaged" --out "$W/sets/$arm-$seed"
  done
done
for seed in $SEEDS; do
  for arm in joint control; do
    $PYTHON $R/hear.py "new_questions-$TRAINED=$W/new_questions/passages.jsonl" \
      --checkpoint "$W/trained/$arm-$seed" --out "$W/sets/$arm-$seed"
  done
done
$PYTHON benchmarks/bridge.py --heard "$W/sets" "${folders[@]}" \
  --json "${JSON:-benchmarks/results/untranscribed.json}"
