"""Measure a checkpoint and what it should beat, on the same clips, in the same run.

    python eval_clsr.py --set sets/real-mix --set sets/spoken-squad-mini --out out/eval
    python eval_clsr.py --set sets/real-mix --systems text,cascade,clsr --checkpoint out/joint --out out/eval

The sets are built by `python -m modeling_clsr.evaluation.sets`. See docs/evaluation.md.
"""

import argparse
import sys
from pathlib import Path

from modeling_clsr.evaluation.build_systems import SYSTEMS, build_systems
from modeling_clsr.evaluation.evaluator import evaluate_systems, load_set
from modeling_clsr.evaluation.report import markdown, write_report
from modeling_clsr.hub.stamp import make_stamp


def main() -> None:
    """Parse, measure, report; one line for what the user can mend."""
    parser = argparse.ArgumentParser(description="Compare speech retrievers on benchmark sets.")
    parser.add_argument(
        "--set", action="append", required=True, help="folder of a built set; may be repeated"
    )
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--checkpoint", default="default", help="CLSR checkpoint; 'default' for clsr-base-en")
    parser.add_argument(
        "--text_encoder", help="sentence-transformers model; that of the default checkpoint if left out"
    )
    parser.add_argument("--recogniser", help="folder of a CTranslate2 Whisper; Whisper base if left out")
    parser.add_argument("--dual", help="checkpoint of the stage `dual`, for the system dual")
    parser.add_argument("--cache", help="folder of what was heard before; OUT/cache if left out")
    parser.add_argument("--out", required=True, help="folder for results.json, table.md and recall.png")
    args = parser.parse_args()
    try:
        stamp, out = make_stamp(), Path(args.out)
        systems = build_systems(args, Path(args.cache or out / "cache"))
        figures = {}
        for folder in args.set:
            passages, questions = load_set(folder)
            figures[Path(folder).name] = evaluate_systems(passages, questions, systems, reference="clsr")
        write_report(out, figures, stamp, checkpoint=args.checkpoint, sets=args.set)
        sys.stdout.write(markdown(figures))
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f"eval_clsr.py: {error}")


if __name__ == "__main__":
    main()
