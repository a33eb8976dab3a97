#!/usr/bin/env bash
# Does the speech encoder at true length learn from itself in Whisper's 30 s window? On two cores:
#   bash recipes/mini_en/selfdistil.sh DATA MANIFEST WORK
# Hears short read clips of DATA, by learners of English, and the longer made ones of MANIFEST, without transcripts, and
# compares on speech that is neither. A second run goes on where the first was stopped. A trial: CLIPS=8 LIMIT=8
# FLAGS="--max_steps 2" JSON=trial.json.
set -euo pipefail
DATA=$1 MANIFEST=$2 W=$3
PYTHON=${PYTHON:-python} CLIPS=${CLIPS:-300}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=${PYTHONPATH:-}:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$W"
PYTHONPATH=$PYTHONPATH:$PWD/recipes/mini_en $PYTHON - "$DATA" "$MANIFEST" "$CLIPS" "$W" <<'PY'
import sys
from pathlib import Path

from collection import read_learners, read_short

from modeling_clsr.data.manifest import distinct_clips, write_manifest

data, manifest, clips, work = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
made = distinct_clips(read_short(manifest))
chosen = [rows[:: max(len(rows) // clips, 1)][:clips] for rows in (read_learners(data), made)]
write_manifest(work / "selfdistil.jsonl", [row for rows in chosen for row in rows])
PY
# shellcheck disable=SC2086
[[ -f $W/selfdistil/stamp.json ]] ||
  $PYTHON train_clsr.py --config recipes/selfdistil.yaml --train_manifest "$W/selfdistil.jsonl" \
    --output_dir "$W/selfdistil" --report_to none ${FLAGS:-}
$PYTHON benchmarks/recognition.py "$DATA/speech/reread.jsonl" --also distilled="$W/selfdistil" --tail 0.5 1 \
  ${LIMIT:+--limit "$LIMIT"} --json "${JSON:-benchmarks/results/selfdistil.json}"
