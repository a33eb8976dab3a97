"""The command line: parsing and printing only. Everything heavy is imported when a command runs."""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .retrieval import Hit

# What user input, a bad recording or a full disk raise; LanceDB reports the last as RuntimeError.
REPORTED_ERRORS = (OSError, ValueError, ImportError, RuntimeError)
INTERRUPTED = {"index": "interrupted; finished recordings are kept, run the same command again to go on"}
MARK_ON, MARK_OFF = "\x02", "\x03"  # stand for the marks while lines are broken
PLAIN_MARKS = {MARK_ON: "»", MARK_OFF: "«"}
COLOUR_MARKS = {MARK_ON: "\x1b[1;33m", MARK_OFF: "\x1b[0m"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 (done), 1 (done but for some files), 2 (error) or 130 (interrupted)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"clsr: {INTERRUPTED.get(arguments.command, 'interrupted')}", file=sys.stderr)
        return 130
    except REPORTED_ERRORS as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"clsr: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2


def _build(arguments: argparse.Namespace) -> int:
    from .hub.build import build_default_checkpoint, default_checkpoint

    print(build_default_checkpoint(arguments.folder) if arguments.folder else default_checkpoint())
    return 0


def _index(arguments: argparse.Namespace) -> int:
    from .data.audio import find_recordings

    recordings = find_recordings(arguments.paths)  # a typo shows before a model is loaded
    from .retrieval import Encoder, SpeechIndex
    from .retrieval.schema import METADATA_FILE

    _hide_loading_bars()
    model = arguments.model
    if (arguments.index / METADATA_FILE).is_file():
        index = SpeechIndex.open(arguments.index, Encoder.from_pretrained(model) if model else None)
    else:
        if model is None:
            from .hub.build import default_checkpoint

            model = default_checkpoint()
        index = SpeechIndex.create(arguments.index, Encoder.from_pretrained(model))
    report = index.add(recordings, arguments.batch_size, progress=True)
    for _, message in report.failed:
        print(f"clsr: not indexed: {message}", file=sys.stderr)
    print(
        f"{report.added} recordings indexed ({report.passages} passages, {report.audio_s / 3600:.2f} h), "
        f"{report.skipped} unchanged, {len(report.failed)} failed; {arguments.index} has {len(index)} passages"
    )
    return 1 if report.failed else 0


def _search(arguments: argparse.Namespace) -> int:
    from .retrieval import Encoder, SpeechIndex
    from .retrieval.schema import IndexMetadata

    IndexMetadata.read(arguments.index)  # a typo shows before a model is loaded
    _hide_loading_bars()
    encoder = Encoder.from_pretrained(arguments.model) if arguments.model else None
    hits = SpeechIndex.open(arguments.index, encoder).search(arguments.question, arguments.k, arguments.file)
    if arguments.json:
        answer = {"question": arguments.question, "hits": [dataclasses.asdict(hit) for hit in hits]}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return 0
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size().columns, 100)
    for rank, hit in enumerate(hits, start=1):
        print(format_hit(rank, hit, COLOUR_MARKS if colour else PLAIN_MARKS, width))
    return 0


def format_hit(rank: int, hit: "Hit", marks: dict[str, str], width: int = 100) -> str:
    """Write a hit for people: rank, score, file, times of moment and passage; the words, the moment marked.

    Args:
        rank: from 1.
        hit: to write.
        marks: what stands for `MARK_ON` and `MARK_OFF`.
        width: of the lines, in characters.
    """
    from .retrieval.progress import clock

    text, moment = hit.transcript, hit.moment
    passage = f"{clock(hit.start_s)}–{clock(hit.end_s)}"
    where = passage
    if moment is not None:
        where = f"{clock(moment.start_s)}–{clock(moment.end_s)}  (in {passage})"
        start, end = moment.start_char, moment.end_char
        text = f"{text[:start]}{MARK_ON}{text[start:end]}{MARK_OFF}{text[end:]}"
    body = textwrap.fill(text, width, initial_indent="   ", subsequent_indent="   ")
    for placeholder, mark in marks.items():
        body = body.replace(placeholder, mark)
    return f"{rank}. {hit.score:.3f}  {hit.path}  {where}\n{body}\n"


def _hide_loading_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clsr", description="Find the moment in a recording that answers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{build,index,search}")

    def command(name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", help="show the trace of an error")
        return sub

    build = command("build", _build, "make the default checkpoint", "clsr build checkpoints/base")
    build.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="default: the cache; made only once"
    )

    index = command("index", _index, "add recordings to an index", "clsr index talks/ --index talks.clsr")
    index.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="recordings, or folders of them")
    index.add_argument("--index", required=True, type=Path, metavar="DIR", help="folder of the index")
    index.add_argument(
        "--model", metavar="CKPT", help="checkpoint folder or Hub id; default: the index's own"
    )
    index.add_argument("--batch-size", type=int, default=16, metavar="N", help="passages at once (16)")

    example = 'clsr search "who keeps the bees?" --index talks.clsr'
    search = command("search", _search, "find the moments that answer", example)
    search.add_argument("question", metavar="QUESTION", help="in words")
    search.add_argument("--index", required=True, type=Path, metavar="DIR", help="folder of the index")
    search.add_argument("-k", type=int, default=5, metavar="N", help="number of hits (5)")
    search.add_argument("--file", metavar="GLOB", help='only recordings whose path matches, as "2024/*.ogg"')
    search.add_argument("--json", action="store_true", help="print JSON, with all words and times")
    search.add_argument("--model", metavar="CKPT", help="where the index's checkpoint is, if it was moved")
    return parser


if __name__ == "__main__":
    sys.exit(main())
