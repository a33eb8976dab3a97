"""Measure a checkpoint and what it should beat, on the same clips, in the same run.

    python eval_clsr.py --set sets/real-mix --set sets/spoken-squad-mini --out out/eval
    python eval_clsr.py --protocol robustness --set sets/real-mix --systems cascade,clsr --out out/noise
    python eval_clsr.py --protocol moments --set sets/spoken-squad-long --out out/moments
    python eval_clsr.py --protocol long-form --set sets/spoken-squad-long --lalm http://host:8000/v1 --out out/long

The sets are built by `python -m modeling_clsr.evaluation.sets`. See docs/evaluation.md.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from modeling_clsr.evaluation.build_systems import SYSTEMS, Parts, build_systems, compared_alike
from modeling_clsr.evaluation.conditions import chosen_conditions
from modeling_clsr.evaluation.evaluator import evaluate_systems, load_set
from modeling_clsr.evaluation.long_form import evaluate_long_form
from modeling_clsr.evaluation.moments import CascadeMoments, IndexMoments, evaluate_moments
from modeling_clsr.evaluation.recognisers import faster_whisper_words
from modeling_clsr.evaluation.report import report_of, write_report
from modeling_clsr.evaluation.robustness import evaluate_robustness
from modeling_clsr.evaluation.robustness_report import draw_robustness
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval.answering import open_answer_model


def ranking(args: argparse.Namespace) -> str:
    """Rank the passages of each set; returns the table."""
    if unknown := sorted(set(args.untimed) - set(args.set)):
        raise ValueError(
            f"--untimed is {unknown[0]} but the sets are {', '.join(args.set)}; name one of them"
        )
    stamp, out = make_stamp(), Path(args.out)
    systems = build_systems(args, cache_folder(args))
    figures, pairs = {}, compared_alike([system.name for system in systems])
    for folder in args.set:
        passages, questions = load_set(folder, args.distractors)
        figures[Path(folder).name] = evaluate_systems(
            passages, questions, systems, reference_of(systems), pairs, timed=folder not in args.untimed
        )
    write_report(out, figures, stamp, checkpoint=args.checkpoint, sets=args.set)
    return report_of(figures)


def robustness(args: argparse.Namespace) -> str:
    """Rank the passages of each set under noise and in rooms."""
    stamp, out = make_stamp(), Path(args.out)
    conditions, noise = chosen_conditions(args.conditions), Path(args.noise)
    systems = build_systems(args, cache_folder(args))
    figures, pairs = {}, compared_alike([system.name for system in systems])
    for folder in args.set:
        name = Path(folder).name
        clips = out / "clips" / name
        figures[name] = evaluate_robustness(
            *load_set(folder), systems, noise, clips, reference_of(systems), conditions, pairs
        )
        draw_robustness(figures[name], out / f"robustness-{name}.png")
    return _write(out, figures, stamp, args)


def moments(args: argparse.Namespace) -> str:
    """Find the moments that answer in long recordings."""
    stamp, out = make_stamp(), Path(args.out)
    parts, figures = Parts(args), {}
    for folder in args.set:
        recordings, questions = load_set(folder)
        index = out / f"{Path(folder).name}.index"
        systems = [
            IndexMoments(parts.clsr, folder=index),
            IndexMoments(parts.clsr, whole_passages=True, name="clsr, whole passages", folder=index),
            CascadeMoments(partial(faster_whisper_words, parts.whisper), parts.encode_texts),
        ]
        figures[Path(folder).name] = evaluate_moments(recordings, questions, systems)
    return _write(out, figures, stamp, args)


def long_form(args: argparse.Namespace) -> str:
    """Answer questions on long recordings with a large audio language model."""
    if not args.lalm:
        raise ValueError(
            "--lalm is None but the protocol long-form needs a model; name a URL, folder or Hub id"
        )
    stamp, out = make_stamp(), Path(args.out)
    model = open_answer_model(args.lalm)
    args.systems = args.systems or "clsr,cascade"
    systems = build_systems(args, cache_folder(args))
    figures = {
        Path(folder).name: evaluate_long_form(
            *load_set(folder), systems, model, out / "pieces", args.cut, args.piece_s, args.pieces
        )
        for folder in args.set
    }
    return _write(out, figures, stamp, args)


def cache_folder(args: argparse.Namespace) -> Path:
    """Return where is kept what was heard."""
    return Path(args.cache or Path(args.out) / "cache")


def reference_of(systems: Any) -> str:
    """Return the system that the others are tested against: `clsr` if it is there."""
    names = [system.name for system in systems]
    return "clsr" if "clsr" in names else names[0]


def _write(out: Path, figures: Any, stamp: Any, args: argparse.Namespace) -> str:
    table = report_of(figures)
    write_stamped(out / "results.json", figures, stamp, checkpoint=args.checkpoint, sets=args.set)
    (out / "table.md").write_text(table, encoding="utf-8")
    return table


PROTOCOLS = {"ranking": ranking, "robustness": robustness, "moments": moments, "long-form": long_form}


def main() -> None:
    """Parse, measure, report; one line for what the user can mend."""
    parser = argparse.ArgumentParser(description="Compare speech retrievers on benchmark sets.")
    add = parser.add_argument
    add("--set", action="append", required=True, help="folder of a built set; may be repeated")
    add("--out", required=True, help="folder for results.json, table.md and pictures")
    add("--protocol", choices=PROTOCOLS, default="ranking")
    add("--systems", help=f"of {', '.join(SYSTEMS)}; all that need no model of their own if left out")
    add("--checkpoint", default="default", help="CLSR checkpoint; 'default' for clsr-base-en")
    add("--also", action="append", metavar="NAME=CHECKPOINT", help="one more CLSR; may be repeated")
    add("--base", help="checkpoint before training: adds text@base, cascade@base …, with its text encoder")
    add(
        "--text_encoder",
        help="sentence-transformers model of text and cascade; the checkpoint's own if left out",
    )
    add(
        "--recogniser",
        help="of the cascade: CTranslate2 Whisper or any of transformers; Whisper base if left out",
    )
    add("--dual", help="checkpoint of the stage `dual`")
    add("--speechdpr", help="checkpoint of the stage `dual` with distillation")
    add("--st", help="sentence-transformers model that takes audio")
    add("--distractors", help="manifest of clips that join the pool and answer nothing")
    add("--noise", default="../shared/data/noise", help="robustness: folder of noises and rooms")
    add("--conditions", help="robustness: those to measure, as 'clean;5 dB'; all if left out")
    add("--lalm", help="long-form: URL of an OpenAI-compatible server, folder or Hub id")
    add("--cut", choices=("fixed", "pauses"), default="fixed", help="long-form: how recordings are cut")
    add("--piece_s", type=float, default=40.0, help="long-form: seconds of a piece")
    add("--pieces", type=int, default=1, help="long-form: pieces that the model hears")
    add(
        "--untimed",
        action="append",
        default=[],
        metavar="SET",
        help="ranking: a set whose clips were heard beside other work, so that its speed is left out",
    )
    add("--cache", help="folder of what was heard before; OUT/cache if left out")
    args = parser.parse_args()
    try:
        sys.stdout.write(PROTOCOLS[args.protocol](args))
    except (ValueError, FileNotFoundError, ImportError, ConnectionError) as error:
        sys.exit(f"eval_clsr.py: {error}")


if __name__ == "__main__":
    main()
