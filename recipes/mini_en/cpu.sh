#!/usr/bin/env bash
# Makes the text encoder of clsr-mini-en on two cores, in about two hours:
#   bash recipes/mini_en/cpu.sh DATA WORK
# DATA is the data folder; WORK gets the spoken sentences, what the recogniser heard of them, and text/, the encoder.
# A second run skips what is done and goes on with what is not. Then freeze it:
#   python -m modeling_clsr.hub.changes --base "$(clsr build)" --tuned_text WORK/text --text_bits 8 --release checkpoints/clsr-mini-en
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

HIBARI=hibari/heart,hibari/heart,hibari/heart,hibari/heart
FLITE=flite/slt,flite/rms,flite/awb,flite/kal16
$PYTHON -m modeling_clsr.data.synthesis "$Q/squad_train_pairs.jsonl.gz" --text sentence --question question --limit 620 \
  --voices "$HIBARI,$FLITE,espeak/en-us+f3,espeak/en-gb+f2" --seed 1 --out "$W/squad"
$PYTHON $R/hear.py squad="$W/squad/manifest.jsonl" --out "$W/heard"
$PYTHON $R/hear.py squad-noisy="$W/squad/manifest.jsonl" --noise_dir "$W/noise" --snr_db 0,15 --out "$W/heard"
if [[ ! -f $W/text/dev.json ]]; then
  $PYTHON $R/text_side.py --squad "$W/squad/manifest.jsonl" --heard "$W/heard" --held_out_from 0 --held_out 200 \
    --texts "$Q/squad_train_pairs.jsonl.gz" --asked $R/asked.jsonl.gz --medquad "$Q/medquad.jsonl.gz" \
    --plain "$Q/factbook_sentences.txt.gz,$W/ljspeech_texts.tsv.gz" --steps 160 --stretch 120 --medical 24 \
    --plain_batch 32 --questions 160 --learning_rate 3e-5 --out "$W/text"
fi
$PYTHON $R/best_text.py "$W/text/dev.json"
