#!/usr/bin/env bash
# Can a recogniser learn from questions where nobody wrote transcripts? On two cores:
#   bash recipes/mini_en/untranscribed.sh MANIFEST DATA SETS WORK
# MANIFEST names spoken sentences with questions, DATA is the data folder, SETS has real-mix and spoken-squad-mini. WORK
# gets noisy clips, what the recogniser heard of them, two arms of three seeds, and what each heard of the sets at 5 dB;
# benchmarks/bridge.py compares them. A second run skips what is done. A trial: JSON=trial.json SEEDS=1 FLAGS="--max_steps 2".
set -euo pipefail
MANIFEST=$1 DATA=$2 SETS=$3 W=$4
PYTHON=${PYTHON:-python} SEEDS=${SEEDS:-1 2 3} CHECKPOINT=${CHECKPOINT:-default}
R=recipes/mini_en NOISE=$W/noise
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$NOISE" "$W/sets"
for name in noise1 noise2 noise3 rir1 rir2; do cp -u "$DATA"/noise/$name.flac "$NOISE"; done

noisy() { $PYTHON $R/noisy.py "$MANIFEST" --noise_dir "$NOISE" --snr_db=-2,8 --out "$W/noisy" "$@"; }
hear_sets() { # name, checkpoint
  $PYTHON $R/hear.py real-mix="$SETS/real-mix/passages.jsonl" mini="$SETS/spoken-squad-mini/passages.jsonl" \
    --checkpoint "$2" --out "$W/sets/$1" --conditions "5 dB" --noise_dir "$DATA/noise" --degraded "$W/degraded"
}
noisy
$PYTHON $R/hear.py noisy="$W/noisy/manifest.jsonl" --checkpoint "$CHECKPOINT" --out "$W/heard"
noisy --heard "$W/heard"
hear_sets checkpoint "$CHECKPOINT"
for seed in $SEEDS; do
  for arm in joint control; do
    weight=0.5
    if [[ $arm == control ]]; then weight=0; fi
    if [[ ! -f $W/$arm-$seed/stamp.json ]]; then
      # shellcheck disable=SC2086
      $PYTHON train_clsr.py --config $R/untranscribed.yaml --model "$CHECKPOINT" --train_manifest "$W/noisy/pseudo.jsonl" \
        --contrastive_weight $weight --seed "$seed" --output_dir "$W/$arm-$seed" --cache_dir "$W/states" \
        --report_to none ${FLAGS:-}
    fi
    hear_sets "$arm-$seed" "$W/$arm-$seed"
  done
done
$PYTHON benchmarks/bridge.py --heard "$W/sets" --set real-mix="$SETS/real-mix" --set mini="$SETS/spoken-squad-mini" \
  --json "${JSON:-benchmarks/results/untranscribed.json}"
