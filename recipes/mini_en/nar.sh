#!/usr/bin/env bash
# The paper's own way at the size of two cores: CIF predictor and a parallel decoder over the text encoder's word pieces.
#   bash recipes/mini_en/nar.sh DATA WORK
# DATA is the data folder; WORK gets speech, the parts, asr/ (taught by true transcripts) and, of three seeds each, joint/
# (through the bridge) and control/ (the same steps without its gradient). Then `benchmarks/bridge.py` compares what they
# hear of the test sets. A second run goes on where the first was stopped.
# A trial: LIMIT=16 EVERY=2000 SEEDS=1 FLAGS="--max_steps 2" SETS=… JSON=trial.json.
set -euo pipefail
DATA=$1 W=$2
PYTHON=${PYTHON:-python} LIMIT=${LIMIT:-3800} EVERY=${EVERY:-4} SEEDS=${SEEDS:-1 2 3} SETS=${SETS:-sets}
R=recipes/mini_en
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$W"
speak() { # folder, first sentence, how many
  $PYTHON -m modeling_clsr.data.synthesis "$DATA/qa/squad_train_pairs.jsonl.gz" --text sentence --question question \
    --skip "$2" --limit "$3" --voices "$(<$R/voices.txt)" --seed 1 --workers 2 --out "$W/$1"
}
speak squad 0 "$LIMIT"
speak held 3800 $((LIMIT / 8)) # other articles
[[ -f $W/parts/text/model.safetensors ]] || $PYTHON $R/parts.py clsr-mini-en --out "$W/parts"
PYTHONPATH=$PYTHONPATH:$PWD/$R $PYTHON - "$DATA" "$EVERY" "$W" <<'PY'
import sys
from pathlib import Path

from collection import read_learners, read_short

from modeling_clsr.data.manifest import distinct_clips, write_manifest
from modeling_clsr.evaluation.benchmark_set import write_questions

data, every, work = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
spoken = read_short(str(work / "squad" / "manifest.jsonl"))
write_manifest(work / "asr.jsonl", [*distinct_clips(spoken), *read_learners(data, every)])
write_manifest(work / "joint.jsonl", spoken)
held_out = read_short(str(work / "held" / "manifest.jsonl"))
write_questions(work / "held_out", held_out, held_out)
PY
train() { # arm, manifest, more arguments
  # shellcheck disable=SC2086
  [[ -f $W/$1/stamp.json ]] ||
    $PYTHON train_clsr.py --config $R/nar_cpu.yaml --train_manifest "$W/$2.jsonl" --output_dir "$W/$1" \
      --cache_dir "$W/states" --report_to none --skip_bad_rows true "${@:3}" ${FLAGS:-}
}
hear() { # arm, its name if another one
  $PYTHON $R/hear.py real-mix="$SETS/real-mix/passages.jsonl" mini="$SETS/spoken-squad-mini/passages.jsonl" \
    held_out="$W/held_out/passages.jsonl" --checkpoint "$W/$1" --states "$W/test_states" --out "$W/sets/${2:-$1}"
}
train asr asr --stage asr --speech "$W/parts/speech" --text "$W/parts/text"
hear asr checkpoint
for seed in $SEEDS; do
  for arm in joint control; do
    weight=1.0
    if [[ $arm == control ]]; then weight=0; fi
    train $arm-"$seed" joint --model "$W/asr" --contrastive_weight $weight --memory_bank true --seed "$seed" \
      --learning_rate 1e-4 --new_learning_rate 2e-4 --warmup_steps 10 --max_steps 80
    hear $arm-"$seed"
  done
done
$PYTHON benchmarks/bridge.py --heard "$W/sets" --set real-mix="$SETS/real-mix" --set mini="$SETS/spoken-squad-mini" \
  --set held_out="$W/held_out" \
  --text "$W/parts/text" --json "${JSON:-benchmarks/results/nar.json}"
