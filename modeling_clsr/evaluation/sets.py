"""The benchmark sets: questions over clips or long recordings, built from texts and speech beside the repository.

    python -m modeling_clsr.evaluation.sets spoken-squad-mini --data ../shared/data --out sets/spoken-squad-mini

Enters: the data folder. Leaves: a folder with `passages.jsonl` (rows), `questions.jsonl` and the audio.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..hub.stamp import make_stamp
from .benchmark_set import BenchmarkSet, Question, read_questions, shared_words, write_set
from .meetings import build_qmsum_long
from .real_mix import build_real_mix
from .spoken_squad import build_spoken_squad_full, build_spoken_squad_long, build_spoken_squad_mini

__all__ = ["BUILDERS", "Question", "build_set", "read_questions"]

SPOKEN: dict[str, Callable[..., BenchmarkSet]] = {
    "spoken-squad-mini": build_spoken_squad_mini,
    "spoken-squad-full": build_spoken_squad_full,
    "spoken-squad-long": build_spoken_squad_long,
    "qmsum-long": build_qmsum_long,
}
BUILDERS = {"real-mix": build_real_mix, **SPOKEN}


def build_set(name: str, data: str | Path, out: str | Path, workers: int = 1) -> Path:
    """Build one set.

    Args:
        name: one of `BUILDERS`.
        data: folder with `qa`, `speech` and `SHA256SUMS`.
        out: folder to write; clips that are there are kept.
        workers: processes that speak, for the sets that are spoken.

    Returns:
        `out`, with `passages.jsonl`, `questions.jsonl` and `stamp.json`.

    Raises:
        FileNotFoundError: the data is not there.
        ImportError: the set's voice is not installed.
    """
    data, out = Path(data), Path(out)
    for needed in ("qa", "SHA256SUMS"):
        if not (data / needed).exists():
            raise FileNotFoundError(
                f"{data} has no {needed}; give the data folder with qa/, speech/ and SHA256SUMS"
            )
    out.mkdir(parents=True, exist_ok=True)
    stamp = make_stamp()
    content = SPOKEN[name](data, out, workers=workers) if name in SPOKEN else BUILDERS[name](data, out)
    write_set(out, content)
    said = {row.context_id: str(row.transcript) for row in content.passages}
    shares = [shared_words(question.question, said[question.context_id]) for question in content.questions]
    stamp |= {
        "set": name,
        "passages": len(content.passages),
        "questions": len(content.questions),
        "hours": sum(row.duration or 0.0 for row in content.passages) / 3600,
        "question_words_in_passage": sum(shares) / max(len(shares), 1),
        "data_sha256": hashlib.sha256((data / "SHA256SUMS").read_bytes()).hexdigest(),
    }
    (out / "stamp.json").write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_clsr.evaluation.sets",
        description="Build a benchmark set; run it again to go on.",
    )
    parser.add_argument("name", choices=BUILDERS)
    parser.add_argument("--data", default="../shared/data", help="folder with qa/ and speech/")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--workers", type=int, default=1, help="processes that speak; some 2 GB each")
    args = parser.parse_args(argv)
    try:
        out = build_set(args.name, args.data, args.out, args.workers)
    except (ValueError, ImportError, FileNotFoundError) as error:
        sys.exit(f"sets: {error}")
    stamp = json.loads((out / "stamp.json").read_text(encoding="utf-8"))
    sys.stderr.write(
        f"{out}: {stamp['questions']} questions, {stamp['passages']} passages, {stamp['hours']:.2f} h\n"
    )


if __name__ == "__main__":
    main()
