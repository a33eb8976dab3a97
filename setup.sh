#!/usr/bin/env bash
# Sets up .venv, builds the default checkpoint and clsr-mini-en, indexes examples/library and asks it the five questions
# of the README.
# A second run skips what is done. Settings from the environment:
#   PYTHON       interpreter for the environment (python3)
#   TORCH_SPEC   what pip gets for torch (torch==2.13.0)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PYTHON=${PYTHON:-python3}
TORCH_SPEC=${TORCH_SPEC:-torch==2.13.0}
EXTRAS=search,train,parts,eval,serve,ui,ray,langchain,haystack,audio,faster,dev
INDEX=library.index
# Everything needed comes by pip; loading a local folder must not wait for a Hub that may be out of reach.
export HF_HUB_OFFLINE=1

step() {
  local title=$1 start=$SECONDS
  shift
  echo "== $title"
  "$@"
  echo "== $title: $((SECONDS - start)) s"
}

install() {
  local stamp
  stamp=$({ cat pyproject.toml; echo "$TORCH_SPEC $EXTRAS"; "$PYTHON" --version; } | cksum)
  if [[ -x .venv/bin/clsr && $(cat .venv/setup-stamp 2>/dev/null) == "$stamp" ]]; then
    echo "up to date"
    return
  fi
  "$PYTHON" -m venv .venv
  # torch comes first and pinned: a range would take the newest release, on Linux a CUDA build of several GB even
  # where the index has a CPU build of this one.
  .venv/bin/python -m pip install --quiet "$TORCH_SPEC"
  .venv/bin/python -m pip install --quiet --editable ".[$EXTRAS]"
  .venv/bin/python -m pip check
  echo "$stamp" >.venv/setup-stamp
}

ask() {
  local questions question
  # An assignment of its own, so that a failure ends the script.
  questions=$(.venv/bin/python - <<'PY'
import json
from pathlib import Path

for row in json.loads(Path("examples/library/questions.json").read_text(encoding="utf-8")):
    if row["readme"]:
        print(row["question"])
PY
  )
  while IFS= read -r question; do
    printf '\n$ clsr search "%s" --index %s -k 1\n' "$question" "$INDEX"
    .venv/bin/clsr search "$question" --index "$INDEX" -k 1 </dev/null
  done <<<"$questions"
}

step "install into .venv" install
step "build the default checkpoint" .venv/bin/clsr build
step "build clsr-mini-en" .venv/bin/clsr build --name clsr-mini-en
step "index examples/library" .venv/bin/clsr index examples/library --index "$INDEX"
step "ask" ask
echo "== all: $SECONDS s"
