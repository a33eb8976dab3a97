#!/usr/bin/env bash
# Makes the text encoder of clsr-mini-en on two cores, in one to two hours:
#   bash recipes/mini_en/cpu.sh DATA WORK
# DATA is the data folder; WORK gets text/, the encoder, and the spoken sentences that it does not learn (squad/, asked/,
# held_out.jsonl), to which its doubt is fitted. What the recogniser heard of some 32 h of speech, one half in quiet and
# the other in noise, is in recipes/mini_en/heard; ANEW=1 speaks and hears all of it again, in one to three hours more,
# and HALVES="0 1" hears each half the other way, too. A second run skips what is done and goes on with what is not. Then
# freeze the encoder:
#   python -m modeling_clsr.hub.changes --base "$(clsr build)" --tuned_text WORK/text --text_bits 8 --release checkpoints/clsr-mini-en
# A trial: LIMIT=8 FLAGS="--steps 2".
set -euo pipefail
DATA=$1 W=$2
PYTHON=${PYTHON:-python}
R=recipes/mini_en Q=$DATA/qa
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$W/noise"
for name in noise1 noise2 noise3 rir1 rir2; do cp -u "$DATA"/noise/$name.flac "$W/noise"; done
# Those chapters are read in real-mix.
zcat "$Q/ljspeech_texts.tsv.gz" | grep -v '^LJ00[123]-' | gzip -n >"$W/ljspeech_texts.tsv.gz"

# Without ANEW a little more than FIRST and LAST of held_out.py.
squad=(--limit "${LIMIT:-250}") asked=(--skip 6900 ${LIMIT:+--limit "$LIMIT"})
if [[ -n ${ANEW:-} ]]; then
  squad=(${LIMIT:+--limit "$LIMIT"}) asked=("${squad[@]}")
else
  mkdir -p "$W/heard"
  for file in "$R"/heard/*.jsonl.gz; do
    kept=$W/heard/$(basename "$file" .gz)
    [[ -f $kept ]] || zcat "$file" >"$kept"
  done
fi
speak() { # folder, texts, more arguments
  $PYTHON -m modeling_clsr.data.synthesis "$2" --voices "$(<$R/voices.txt)" --seed 1 --workers 2 --out "$W/$1" "${@:3}"
}
speak squad "$Q/squad_train_pairs.jsonl.gz" --text sentence --question question "${squad[@]}"
speak asked $R/asked.jsonl.gz --question question "${asked[@]}"
$PYTHON $R/held_out.py "$W" --out "$W/held_out.jsonl"
trap 'kill $(jobs -p) &>/dev/null || true' EXIT
hear() { # name, manifest, parts of the clips in quiet and in noise; a core for each
  local settings=(--workers 0 --dtype auto --out "$W/heard")
  OMP_NUM_THREADS=1 $PYTHON $R/hear.py "$1=$2" --shard "$3" "${settings[@]}" &
  OMP_NUM_THREADS=1 $PYTHON $R/hear.py "$1-noisy=$2" --shard "$4" --noise_dir "$W/noise" --snr_db 0,15 "${settings[@]}"
  wait $!
}
if [[ -n ${ANEW:-} ]]; then
  hear held_out "$W/held_out.jsonl" 0/1 0/1
  for half in ${HALVES:-0}; do
    for name in squad asked; do hear $name "$W/$name/manifest.jsonl" "$half/2" "$((1 - half))/2"; done
  done
fi
if [[ ! -f $W/text/dev.json ]]; then
  # shellcheck disable=SC2086
  $PYTHON $R/text_side.py --squad "$Q/squad_train_pairs.jsonl.gz" --heard "$W/heard" --asked $R/asked.jsonl.gz \
    --medquad "$Q/medquad.jsonl.gz" \
    --plain "$Q/factbook_sentences.txt.gz,$W/ljspeech_texts.tsv.gz" --steps 320 --stretch 120 --medical 24 \
    --plain_batch 32 --questions 160 --learning_rate 3e-5 --out "$W/text" ${FLAGS:-}
fi
$PYTHON $R/best_text.py "$W/text/dev.json"
