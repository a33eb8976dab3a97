#!/usr/bin/env bash
# Makes the trained parts of clsr-mini-en on one GPU with 16 cores:
#   bash recipes/mini_en/gpu.sh WORK OUT
# WORK holds checkpoint/ (clsr-base-en), parts/ (the files beside the weights of its two parts), noise/ (training),
# testnoise/, text/, ocean.jsonl with its clips, real-mix/ and mini/ (the sets), and squad/, which may still be spoken
# meanwhile: squad/manifest.jsonl is waited for. OUT gets what was heard, logs and curves, and the changed weights. A
# second run skips what is done. A trial: STEPS=2 TEXT_STEPS=1 SHARDS=1 SEEDS=1 DEVICE=cpu.
set -uo pipefail
W=$1 OUT=$2
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} STEPS=${STEPS:-0} TEXT_STEPS=${TEXT_STEPS:-300} SHARDS=${SHARDS:-5}
SEEDS=${SEEDS:-1 2 3}
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD
R=recipes/mini_en
CONDITIONS="clean;10 dB;5 dB"
mkdir -p "$OUT" "$W/log" "$W/heard" "$W/sets"
say() { echo "[$SECONDS s] $*"; }
hear() { # log, then the arguments of hear.py
  $PYTHON $R/hear.py "${@:2}" --device $DEVICE --workers 1 &>"$W/log/hear-$1"
}
hear_sets() { # checkpoint
  hear "sets-$1" real-mix="$W/real-mix/passages.jsonl" mini="$W/mini/passages.jsonl" --checkpoint "$W/$1" \
    --out "$W/sets/$1" --conditions "$CONDITIONS" --noise_dir "$W/testnoise" --degraded "$W/degraded"
}

say "before there is training speech: the sets in noise, and what the recogniser hears of them and of read clips"
before=()
$PYTHON $R/parts.py "$W/checkpoint" --companions "$W/companions" --out "$W/parts" &>"$W/log/parts" & before+=($!)
hear ocean ocean="$W/ocean.jsonl" --checkpoint "$W/checkpoint" --out "$W/heard" & before+=($!)
hear_sets checkpoint & before+=($!)
until [[ -f $W/squad/manifest.jsonl ]]; do sleep 1; done

say "hear the training speech: in quiet for the labels, in noise for the text encoder"
heard=()
for ((n = 0; n < SHARDS; n++)); do
  hear "squad-$n" squad="$W/squad/manifest.jsonl" --checkpoint "$W/checkpoint" --out "$W/heard" --shard $n/$SHARDS &
  heard+=($!)
  hear "noisy-$n" squad-noisy="$W/squad/manifest.jsonl" --checkpoint "$W/checkpoint" --out "$W/heard" \
    --shard $n/$SHARDS --noise_dir "$W/noise" --snr_db 0,15 &
  heard+=($!)
done
wait "${before[@]}" "${heard[@]}"
wc -l "$W"/heard/* | tail -1
$PYTHON $R/labels.py --squad "$W/squad/manifest.jsonl" --ocean "$W/ocean.jsonl" --heard "$W/heard" --out "$W/joint.jsonl" ||
  exit 1

say "train: the recogniser with and without the retrieval gradient, the paper's parallel one, the text encoder"
flags=(--train_manifest "$W/joint.jsonl" --report_to none --skip_bad_rows true)
if [[ $STEPS != 0 ]]; then flags+=(--max_steps "$STEPS"); fi
if [[ $DEVICE == cuda ]]; then flags+=(--tf32 true); else flags+=(--use_cpu true --per_device_train_batch_size 4); fi
train() { # name, recipe, more flags
  [[ -f $W/$1/stamp.json ]] ||
    $PYTHON train_clsr.py --config $R/$2.yaml --output_dir "$W/$1" "${flags[@]}" "${@:3}" &>"$W/log/$1"
}
arm() { # kind, seed
  train "$1-$2" "$1" --model "$W/checkpoint" --recognizer_tokenizer "$W/companions/speech" --noise_dir "$W/noise" \
    --seed "$2" && hear_sets "$1-$2"
}
text() { # name, more flags
  [[ -f $W/text-$1/dev.json ]] ||
    $PYTHON $R/text_side.py --checkpoint "$W/checkpoint" --squad "$W/text/squad_train_pairs.jsonl.gz" --heard "$W/heard" \
      --medquad "$W/text/medquad.jsonl.gz" --plain "$W/text/factbook_sentences.txt.gz,$W/text/ljspeech_texts.tsv.gz" \
      --held_out_from 3800 --held_out 400 --out "$W/text-$1" --device $DEVICE --steps "$TEXT_STEPS" \
      "${@:2}" &>"$W/log/text-$1"
}
changes() { # name, flags of hub.changes
  $PYTHON -m modeling_clsr.hub.changes --base "$W/checkpoint" --out "$W/changes-$1" "${@:2}" &>"$W/log/changes-$1"
}
for seed in $SEEDS; do
  for kind in joint control; do arm $kind "$seed" & done
done
text listwise --learning_rate 2e-5 &
text truth --learning_rate 2e-5 --teacher_share 0 &
text strong --learning_rate 5e-5 --teacher_share 0.7 &
text gentle --learning_rate 1e-5 --anchor_weight 3 &
text copy --learning_rate 3e-5 --teacher_share 1 &
{ train nar nar --speech "$W/parts/speech" --text "$W/parts/text" && hear_sets nar; } &
wait
changes joint-1 --tuned_speech "$W/joint-1" --bits 4 &
# Of the text encoders the two that do best on held-out articles come home.
for name in $($PYTHON $R/best_text.py "$W"/text-*/dev.json | head -2); do
  changes "$name" --tuned_text "$W/$name" --bits 8 &
done
wait
tail -qn 1 "$W"/log/joint-* "$W"/log/control-* "$W"/log/nar "$W"/log/text-* "$W"/log/hear-sets-* "$W"/log/changes-* | cut -c1-400

say collect
for folder in "$W"/changes-*; do
  for file in "$folder"/*.safetensors; do
    cp "$file" "$OUT/$(basename "$folder" | cut -c9-)-$(basename "$file")"
  done
done
cd "$W" && tar czf "$OUT/heard.tgz" log heard sets joint.jsonl text-*/dev.json changes-*/changes.json \
  $(ls {joint,control}-*/{stamp.json,trainer_state.json,training_curve.png} nar/{stamp.json,training_curve.png} 2>/dev/null)
ls -la "$OUT"
say done
