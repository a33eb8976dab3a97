"""The command line: parsing and printing only. Everything heavy is imported when a command runs."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .data.passages import Cutting
    from .retrieval import Encoder, Hit, SpeechIndex

# What user input, a bad recording or a full disk raise; LanceDB reports the last as RuntimeError.
REPORTED_ERRORS = (OSError, ValueError, ImportError, RuntimeError)
INTERRUPTED = {"index": "interrupted; finished recordings are kept, run the same command again to go on"}
FORMATS = ("srt", "vtt", "json", "txt")  # of subtitles.render, which is imported when it is needed
# Those of retrieval.faster; the first two need no building.
FORMS = ("bfloat16", "int8", "onnx", "onnx-int8", "openvino")
FILTERS = ("file", "exclude", "mode", "after", "before")  # of SpeechIndex.search
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
    from .hub.build import NAME, build_default_checkpoint, default_checkpoint

    cached, build = default_checkpoint, build_default_checkpoint
    if arguments.name not in (None, NAME):
        from .hub.release import build_release, cached_release, find_release

        release = find_release(arguments.name)
        cached, build = partial(cached_release, release), partial(build_release, release)
    folder, forms = arguments.folder, arguments.form or ()
    if folder is None:
        folder = cached()
    elif not (forms and (folder / "config.json").is_file()):
        folder = build(folder)
    if forms:
        from .retrieval.faster import export_form

        _hide_loading_bars()
        for form in forms:
            export_form(folder, form)
    print(folder)
    return 0


def _encoder(arguments: argparse.Namespace) -> "Encoder | None":
    """Load the model that was named, in its form; None where the index's own will do as it is."""
    from .retrieval import Encoder

    model = arguments.model
    if arguments.form and not model:
        from .hub.build import default_checkpoint
        from .retrieval.schema import open_table

        try:
            model = open_table(arguments.index)[1].model if arguments.index else default_checkpoint()
        except FileNotFoundError:  # a new index
            model = default_checkpoint()
    return Encoder.from_pretrained(model, form=arguments.form) if model else None


def _index(arguments: argparse.Namespace) -> int:
    from .data.audio import find_recordings

    find_recordings(arguments.paths)  # a typo shows before a model is loaded
    from .retrieval import SpeechIndex

    if arguments.form and arguments.ray:
        raise ValueError(
            f"--form is {arguments.form} but --ray's workers run float32; leave one of the two out"
        )
    cut = _cutting(arguments)
    _hide_loading_bars()
    index = SpeechIndex.open_or_create(arguments.index, _encoder(arguments), cut)
    failed = _add(index, arguments)
    if arguments.watch:
        _watch(index, arguments)
    return 1 if failed else 0


def _watch(index: "SpeechIndex", arguments: argparse.Namespace) -> NoReturn:
    """Keep an index current until Ctrl-C, which raises a KeyboardInterrupt."""
    stopped = threading.Event()

    def stop(*_: object) -> NoReturn:
        stopped.set()
        raise KeyboardInterrupt  # Python drops it in a weak reference's callback; hence the event

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as a shell's background jobs have it
        signal.signal(signal.SIGINT, stop)
    try:
        while not stopped.is_set():
            time.sleep(arguments.watch)
            _add(index, arguments, quiet=True)
        raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _delete(arguments: argparse.Namespace) -> int:
    from .retrieval import SpeechIndex

    index = SpeechIndex.open(arguments.index)
    count = index.delete(arguments.paths)
    print(f"{count} recordings taken out; {arguments.index} has {len(index)} passages")
    return 0


def _cutting(arguments: argparse.Namespace) -> "Cutting | None":
    """Return how recordings are to be cut; None for the index's own way, or the default of a new one."""
    if arguments.window is None:
        if arguments.overlap is not None:
            raise ValueError(f"--overlap is {arguments.overlap:g} but --window is missing; give both")
        return None
    from .data.passages import FixedWindows

    return FixedWindows(arguments.window, arguments.overlap or 0.0)


def _add(index: "SpeechIndex", arguments: argparse.Namespace, quiet: bool = False) -> int:
    """Bring an index up to date and say what was done; return the number of recordings that failed.

    Args:
        index: to add to.
        arguments: of the command.
        quiet: say nothing where nothing has changed, and take paths that are gone for a while as empty.
    """
    from .data.audio import find_recordings

    pruned: list[str] = []
    recordings: list[Path] = []
    try:
        pruned = index.prune(arguments.paths) if arguments.prune else []
        recordings = find_recordings(arguments.paths)
    except FileNotFoundError:
        if not quiet:
            raise
    if arguments.ray is None:
        report = index.add(recordings, arguments.batch_size, progress=not quiet)
    else:
        from .retrieval.ray_indexing import add_with_ray

        address = None if arguments.ray == "local" else arguments.ray
        report = add_with_ray(
            index, recordings, arguments.batch_size, arguments.workers, address, progress=not quiet
        )
    for _, message in report.failed:
        print(f"clsr: not indexed: {message}", file=sys.stderr)
    if not quiet or report.added or pruned:
        gone = f", {len(pruned)} vanished" if arguments.prune else ""
        print(
            f"{report.added} recordings indexed ({report.passages} passages, {report.audio_s / 3600:.2f} h), "
            f"{report.skipped} unchanged{gone}, {len(report.failed)} failed; "
            f"{arguments.index} has {len(index)} passages",
            flush=True,
        )
    return len(report.failed)


def _find(arguments: argparse.Namespace) -> "tuple[SpeechIndex, list[Hit]]":
    """Open the index and search it."""
    from .retrieval import SpeechIndex
    from .retrieval.schema import open_table

    open_table(arguments.index)  # a typo shows before a model is loaded
    _hide_loading_bars()
    index = SpeechIndex.open(arguments.index, _encoder(arguments))
    question: Any = arguments.question
    if getattr(arguments, "audio", None):
        from .data.audio import load_audio

        question = load_audio(arguments.audio)
    filters = {name: getattr(arguments, name) for name in FILTERS}
    return index, index.search(question, arguments.k, **filters)


def _search(arguments: argparse.Namespace) -> int:
    if (arguments.question is None) == (arguments.audio is None):
        given = "neither is" if arguments.question is None else "both are"
        raise ValueError(f"a question in words or --audio is needed but {given} there; give one of them")
    index, hits = _find(arguments)
    if arguments.clip:
        _write_clips(hits, arguments.clip)
    if arguments.format:
        from .retrieval.subtitles import render

        for hit in hits:
            sys.stdout.write(render(hit.words, arguments.format, hit.path))
    elif arguments.json:
        question = arguments.question or str(arguments.audio)
        answer = {"question": question, "answered": index.answered(hits), "hits": _plain(hits)}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        if index.answered(hits) is False:
            print(f"Not answered here, as it seems; the nearest {len(hits)}:\n")
        _print_hits(hits)
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    from .retrieval import ask
    from .retrieval.answering import open_answer_model

    model = open_answer_model(arguments.lalm, arguments.lalm_name) if arguments.lalm else None
    index, hits = _find(arguments)
    answer = ask(arguments.question, hits, model)
    answered = index.answered(hits)
    if arguments.json:
        content = {"question": arguments.question, "answer": answer.text, "model": answer.model}
        content["answered"] = answered
        print(json.dumps(content | {"hits": _plain(hits)}, indent=2, ensure_ascii=False))
        return 0
    if answer.text is None:
        doubt = "; none is likely to answer" if answered is False else ""
        print(f"No model was named (--lalm), so these are the moments that answer best{doubt}:\n")
        _print_hits(hits)
        return 0
    print(f"{answer.text}\n\nHeard by {answer.model} in:")
    for rank, hit in enumerate(hits, start=1):
        print(f"[{rank}] {hit.path} {_where(hit)}")
    return 0


def _transcribe(arguments: argparse.Namespace) -> int:
    from .data.audio import find_recordings

    recordings = find_recordings(arguments.paths)
    from .data.passages import CutSettings
    from .hub.build import default_checkpoint
    from .retrieval import Encoder
    from .retrieval.indexing import AddReport, changed_recordings, encode_recordings
    from .retrieval.progress import AudioBar
    from .retrieval.subtitles import render
    from .transcript_clsr import Word

    report = AddReport()
    found = changed_recordings(recordings, {}, report)  # each once, however it is named
    paths = [recording.path for recording in found]
    files = {} if arguments.out == "-" else _transcript_files(paths, arguments)
    _hide_loading_bars()
    encoder = Encoder.from_pretrained(arguments.model or default_checkpoint(), form=arguments.form)
    cut = CutSettings(max_s=encoder.max_audio_s)
    with AudioBar(total=sum(recording.duration_s for recording in found), disable=len(found) == 0) as bar:
        for seconds, finished in encode_recordings(found, encoder, cut, arguments.batch_size, report):
            bar.update(seconds)
            for recording in finished:
                words = [Word(**word) for row in recording.rows for word in row["words"]]
                text = render(words, arguments.format, str(recording.path))
                if recording.path in files:
                    _write_transcript(text, files[recording.path])
                else:
                    sys.stdout.write(text)
    for _, message in report.failed:
        print(f"clsr: not transcribed: {message}", file=sys.stderr)
    return 1 if report.failed else 0


def _transcript_files(recordings: Sequence[Path], arguments: argparse.Namespace) -> dict[Path, Path]:
    """Say where each transcript goes: beside its recording, or into --out. Those of one stem keep their suffixes.

    Raises:
        ValueError: two would be written to one file.
    """
    stems = {path: Path(arguments.out or path.parent) / path.stem for path in recordings}
    taken = Counter(stems.values())
    owners: dict[Path, Path] = {}
    for path, stem in stems.items():
        name = path.name if taken[stem] > 1 else path.stem
        file = stem.with_name(f"{name}.{arguments.format}")
        if (other := owners.setdefault(file, path)) != path:
            raise ValueError(
                f"{other} and {path} would both be written to {file}; leave --out out, or give each its own"
            )
    return {path: file for file, path in owners.items()}


def _write_transcript(text: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)
    print(file)


def _serve(arguments: argparse.Namespace) -> int:
    from .hub.build import default_checkpoint
    from .retrieval import Encoder, SpeechIndex
    from .serving.app import ServerLimits, create_app

    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(
            '`clsr serve` needs uvicorn, which is not installed; install the "serve" extra of this package'
        ) from error
    _hide_loading_bars()
    encoder = _encoder(arguments)
    if arguments.index:
        index = SpeechIndex.open(arguments.index, encoder)
        index.prewarm()
        encoder = index.encoder
    else:
        index, encoder = None, encoder or Encoder.from_pretrained(default_checkpoint())
    limits = ServerLimits(max_bytes=arguments.max_mb << 20, max_audio_s=60 * arguments.max_minutes)
    app = create_app(encoder, index, limits, os.environ.get("CLSR_API_KEY"))
    uvicorn.run(
        app, host=arguments.host, port=arguments.port, log_level="warning", timeout_graceful_shutdown=30
    )
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from .retrieval import SpeechIndex
    from .serving.page import launch

    if "://" in arguments.index and arguments.uploads is None:
        raise ValueError(
            f"--uploads is missing but {arguments.index} is no folder to keep files beside; name one"
        )
    _hide_loading_bars()
    # A new one can be filled on the page.
    index = SpeechIndex.open_or_create(arguments.index, _encoder(arguments))
    index.prewarm()
    uploads = arguments.uploads or Path(f"{arguments.index.rstrip('/')}.recordings")
    print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C stops it)", flush=True)
    launch(index, uploads, arguments.host, arguments.port)
    return 0


def _print_hits(hits: "list[Hit]") -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size().columns, 100)
    for rank, hit in enumerate(hits, start=1):
        print(format_hit(rank, hit, COLOUR_MARKS if colour else PLAIN_MARKS, width))


def _plain(hits: "list[Hit]") -> list[dict]:
    """Return hits as JSON holds them."""
    return [dataclasses.asdict(hit) | {"recorded": hit.recorded.isoformat()} for hit in hits]


def _write_clips(hits: "list[Hit]", folder: Path) -> None:
    """Write the passage of each hit as a WAV file and name it on stderr."""
    import soundfile

    from .data.audio import SAMPLING_RATE, read_range

    folder.mkdir(parents=True, exist_ok=True)
    for rank, hit in enumerate(hits, start=1):
        file = folder / f"{rank:02d}-{Path(hit.path).stem}-{int(hit.start_s)}s.wav"
        soundfile.write(file, read_range(hit.source, hit.start_s, hit.end_s), SAMPLING_RATE)
        print(f"clsr: wrote {file}", file=sys.stderr)


def _where(hit: "Hit") -> str:
    """Write the times of a hit: those of its moment, with its passage's behind them."""
    from .retrieval.progress import clock

    passage = f"{clock(hit.start_s)}–{clock(hit.end_s)}"
    if hit.moment is None:
        return passage
    return f"{clock(hit.moment.start_s)}–{clock(hit.moment.end_s)}  (in {passage})"


def format_hit(rank: int, hit: "Hit", marks: dict[str, str], width: int = 100) -> str:
    """Write a hit for people: rank, score, probability, file, times; below the words, the moment marked.

    Args:
        rank: from 1.
        hit: to write.
        marks: what stands for `MARK_ON` and `MARK_OFF`.
        width: of the lines, in characters.
    """
    text, moment = hit.transcript, hit.moment
    if moment is not None:
        start, end = moment.start_char, moment.end_char
        text = f"{text[:start]}{MARK_ON}{text[start:end]}{MARK_OFF}{text[end:]}"
    body = textwrap.fill(text, width, initial_indent="   ", subsequent_indent="   ")
    for placeholder, mark in marks.items():
        body = body.replace(placeholder, mark)
    sure = "" if hit.probability is None else f" ({hit.probability:.0%})"
    return f"{rank}. {hit.score:.3f}{sure}  {hit.path}  {_where(hit)}\n{body}\n"


def _hide_loading_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clsr",
        description="Find the moment in a recording that answers.",
        epilog="--debug behind a command shows the trace of an error",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{build,index,delete,search,ask,ui,serve,transcribe}"
    )

    def command(name: str, run, takes: str, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            usage=f"clsr {name} {takes} [options]",
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)  # the trace of an error
        return sub

    def add_index(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--index", required=True, metavar="DIR", help="folder of the index, or s3://…")

    def add_form(
        sub: argparse.ArgumentParser, text: str = "a faster form, as bfloat16 or int8, or one that was built"
    ) -> None:
        sub.add_argument("--form", choices=FORMS, metavar="FORM", help=text)

    def add_filters(sub: argparse.ArgumentParser, k: int) -> None:
        sub.add_argument("-k", type=int, default=k, metavar="N", help=f"number of hits ({k})")
        modes = ("hybrid", "dense", "text")
        sub.add_argument(
            "--mode", choices=modes, default=modes[0], metavar="MODE", help="hybrid (default), dense or text"
        )
        sub.add_argument("--file", metavar="GLOB", help='only recordings whose path matches, as "2024/*.ogg"')
        sub.add_argument("--exclude", metavar="GLOB", help="not the recordings whose path matches")
        for name, sense in (("after", "on this day or later"), ("before", "before this day")):
            sub.add_argument(
                f"--{name}",
                type=date.fromisoformat,
                metavar="DATE",
                help=f"only files changed {sense} (2026-11-25)",
            )
        sub.add_argument("--model", metavar="CKPT", help="where the index's checkpoint is, if it was moved")
        add_form(sub, argparse.SUPPRESS)  # gains little for one question, and the screen is full

    example = "clsr build --name clsr-mini-en"
    build = command("build", _build, "[DIR]", "make the default checkpoint, or another", example)
    build.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="default: the cache; made only once"
    )
    build.add_argument("--name", metavar="NAME", help="of a trained one, as clsr-mini-en; or its folder")
    build.add_argument(
        "--form",
        action="append",
        choices=FORMS[2:],
        metavar="FORM",
        help=f"add a faster form, repeatable: {', '.join(FORMS[2:])}",
    )

    index = command(
        "index",
        _index,
        "PATH… --index DIR",
        "add recordings to an index",
        "clsr index talks/ --index talks.clsr",
    )
    index.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="recordings, or folders of them")
    add_index(index)
    index.add_argument(
        "--model", metavar="CKPT", help="folder, Hub id or clsr-mini-en; default: the index's own"
    )
    add_form(index)
    index.add_argument("--batch-size", type=int, default=16, metavar="N", help="passages at once (16)")
    index.add_argument("--prune", action="store_true", help="take out recordings of PATH that have vanished")
    index.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=30.0,
        metavar="S",
        help="go on, and look for changes every S seconds (30)",
    )
    index.add_argument(
        "--window", type=float, metavar="S", help="windows of S seconds instead of cuts at pauses"
    )
    index.add_argument("--overlap", type=float, metavar="S", help="seconds that two windows share")
    index.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="spread the work over a Ray cluster, or this machine",
    )
    index.add_argument("--workers", type=int, metavar="N", help="of --ray: one per GPU, or two cores")

    example = "clsr delete talks/old.ogg --index talks.clsr"
    delete = command("delete", _delete, "PATH… --index DIR", "take recordings out of an index", example)
    delete.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="recordings, or folders of them; files are left alone",
    )
    add_index(delete)

    example = 'clsr search "who keeps the bees?" --index talks.clsr'
    search = command("search", _search, "QUESTION --index DIR", "find the moments that answer", example)
    search.add_argument("question", nargs="?", metavar="QUESTION", help="in words")
    add_index(search)
    search.add_argument("--audio", type=Path, metavar="FILE", help="a spoken question, in place of words")
    add_filters(search, k=5)
    search.add_argument("--clip", type=Path, metavar="DIR", help="write the hits' passages there as WAV")
    search.add_argument("--json", action="store_true", help="print JSON, with all words and times")
    search.add_argument("-f", "--format", choices=FORMATS, metavar="F", help="print srt, vtt, json or txt")

    ui = command("ui", _ui, "--index DIR", "open a page to ask, listen and add", "clsr ui --index talks.clsr")
    add_index(ui)
    ui.add_argument(
        "--uploads", type=Path, metavar="DIR", help="where added recordings are kept (INDEX.recordings)"
    )
    ui.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    ui.add_argument("--port", type=int, default=7860, help="port (7860)")
    ui.add_argument("--model", metavar="CKPT", help="checkpoint; default: the index's own")
    add_form(ui)

    example = "clsr serve --index talks.clsr --port 8000"
    serve = command("serve", _serve, "[--index DIR]", "serve OpenAI's API, and search", example)
    serve.add_argument("--index", metavar="DIR", help="folder of the index, or s3://…; no search without one")
    serve.add_argument("--model", metavar="CKPT", help="checkpoint; default: the index's own")
    add_form(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="port (8000); the key is CLSR_API_KEY's value")
    serve.add_argument("--max-mb", type=int, default=200, metavar="N", help="largest request (200)")
    serve.add_argument("--max-minutes", type=float, default=180, metavar="N", help="longest recording (180)")

    example = "clsr transcribe talks/ -f srt"
    transcribe = command("transcribe", _transcribe, "PATH…", "write transcripts and subtitles", example)
    transcribe.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="recordings, or folders of them"
    )
    transcribe.add_argument(
        "-f", "--format", choices=FORMATS, default="txt", metavar="F", help="srt, vtt, json or txt (txt)"
    )
    transcribe.add_argument(
        "--out", metavar="DIR", help="write there, or - for stdout; default: beside the recording"
    )
    transcribe.add_argument("--model", metavar="CKPT", help="folder, Hub id or clsr-mini-en; the default one")
    add_form(transcribe)
    transcribe.add_argument("--batch-size", type=int, default=16, metavar="N", help="passages at once (16)")

    example = 'clsr ask "who keeps the bees?" --index talks.clsr --lalm http://host:8000/v1'
    ask = command("ask", _ask, "QUESTION --index DIR", "answer from the best moments", example)
    ask.add_argument("question", metavar="QUESTION", help="in words")
    add_index(ask)
    ask.add_argument(
        "--lalm",
        metavar="MODEL",
        help="audio language model: server URL (its key: CLSR_LALM_API_KEY), folder or Hub id",
    )
    ask.add_argument("--lalm-name", metavar="NAME", help="of the model on the server (the first it lists)")
    add_filters(ask, k=3)
    ask.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
