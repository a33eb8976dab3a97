"""The page of `clsr ui`: ask in words or aloud, hear the moment, add recordings, take results away.

Enters: an index. Leaves: a Gradio app over it. What decides is in `retrieval`; here is only what a person sees.
"""

import contextlib
import hashlib
import html
import re
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..data.audio import SAMPLING_RATE, load_audio, read_range
from ..retrieval.index import SpeechIndex
from ..retrieval.progress import clock
from ..retrieval.search import MODES, Hit
from ..retrieval.subtitles import FORMATS, render

try:
    import gradio as gr
except ImportError as error:
    raise ImportError(
        '`clsr ui` needs gradio, which is not installed; install the "ui" extra of this package'
    ) from error

HITS = 5
LEAD_IN_S = 0.3  # before the moment, so that its first word is heard whole
STYLE = """
.hit mark { background: #ffe28a; color: #111; padding: 0 .15em; border-radius: .2em; }
.hit h3 { margin: 0 0 .3em 0; font-size: 1.05em; overflow-wrap: anywhere; }
.hit p { margin: 0 0 .5em 0; line-height: 1.5; }
.hit audio { width: 100%; }
.hit a { margin-right: .8em; }
.hit { border-bottom: 1px solid #8884; padding: .8em 0; }
.gradio-container { max-width: 60rem !important; margin: 0 auto; }
"""


def create_page(index: SpeechIndex, uploads: Path) -> gr.Blocks:
    """Make the page.

    Args:
        index: that is searched, and that recordings are added to.
        uploads: folder where added recordings are kept.
    """
    page = _Page(index, uploads)
    with gr.Blocks(title="CLSR", analytics_enabled=False) as blocks:
        gr.Markdown("# Ask your recordings")
        with gr.Tab("Ask"):
            question = gr.Textbox(
                label="Question",
                placeholder="Who is going to repair the bridge?",
                autofocus=True,
                elem_id="question",
            )
            with gr.Accordion("Speak it, or narrow the search", open=False):
                spoken = gr.Audio(
                    label="Spoken question",
                    sources=["upload", "microphone"],
                    type="filepath",
                    elem_id="spoken",
                )
                with gr.Row():
                    file = gr.Textbox(label="Only recordings named", placeholder="2024/*.ogg", elem_id="file")
                    after = gr.Textbox(label="Changed on or after", placeholder="2024-01-31", elem_id="after")
                    before = gr.Textbox(label="Changed before", placeholder="2025-01-31", elem_id="before")
                with gr.Row():
                    mode = gr.Radio(MODES, value=MODES[0], label="Rank by", elem_id="mode")
                    count = gr.Slider(1, 20, value=HITS, step=1, label="Hits", elem_id="count")
            ask = gr.Button("Ask", variant="primary", elem_id="ask")
            answer = gr.Markdown(elem_id="answer")
            found = gr.HTML(elem_id="hits", padding=True)
            inputs = [question, spoken, file, after, before, mode, count]
            gr.on([ask.click, question.submit], page.ask, inputs, [answer, found])
        with gr.Tab("Recordings"):
            files = gr.File(label="Drop recordings here", file_count="multiple", elem_id="files")
            add = gr.Button("Add to the index", variant="primary", elem_id="add")
            report = gr.Markdown(elem_id="report")
            table = gr.HTML(page.recordings, elem_id="table", padding=True)
            add.click(page.add, files, [report, table, files])
    return blocks


def launch(index: SpeechIndex, uploads: Path, host: str, port: int | None, **settings: Any) -> Any:
    """Serve the page; returns when it is stopped, or at once with `prevent_thread_lock=True`."""
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )  # none from the network
    return (
        create_page(index, uploads)
        .queue()
        .launch(
            server_name=host, server_port=port, theme=theme, css=STYLE, quiet=True, share=False, **settings
        )
    )


def hit_html(rank: int, hit: Hit, files: dict[str, str]) -> str:
    """Write a hit: heading, transcript with its moment marked, a player that starts there, files to take away.

    Args:
        rank: from 1.
        hit: to write.
        files: address of the passage ("wav", missing if the recording has vanished) and of each transcript.
    """
    text, moment = hit.transcript, hit.moment
    first, last = (0, 0) if moment is None else (moment.start_char, moment.end_char)
    before, said, after = (html.escape(part) for part in (text[:first], text[first:last], text[last:]))
    marked = f"{before}<mark>{said}</mark>{after}" if said else after
    times = (hit.start_s, hit.end_s) if moment is None else (moment.start_s, moment.end_s)
    sure = "" if hit.probability is None else f" · {hit.probability:.0%} likely to answer"
    name = f'<span title="{html.escape(hit.path)}">{html.escape(Path(hit.path).name)}</span>'
    heading = f"{rank}. {name} · {clock(times[0])}–{clock(times[1])}{sure}"
    player = "<p>The recording is not where it was indexed.</p>"
    if "wav" in files:
        source = f"{files['wav']}#t={moment_offset(hit):.2f}"
        player = f'<audio controls preload="metadata" aria-label="Play hit {rank}" src="{source}"></audio>'
    names = {"wav": "Clip"} | {form: form.upper() for form in FORMATS}
    links = " ".join(f'<a href="{address}" download>{names[kind]}</a>' for kind, address in files.items())
    return f'<section class="hit"><h3>{heading}</h3><p>{marked}</p>{player}<p>{links}</p></section>'


def moment_offset(hit: Hit) -> float:
    """Return where in the passage the player starts, in seconds."""
    return 0.0 if hit.moment is None else max(hit.moment.start_s - hit.start_s - LEAD_IN_S, 0.0)


class _Page:
    """What the page's buttons do."""

    def __init__(self, index: SpeechIndex, uploads: Path):
        self.index, self.uploads = index, uploads
        self._folder = tempfile.TemporaryDirectory(prefix="clsr-ui-")  # of clips and downloads
        gr.set_static_paths([self._folder.name])

    def ask(
        self,
        question: str | None,
        spoken: str | None,
        file: str | None,
        after: str | None,
        before: str | None,
        mode: str,
        count: float,
    ) -> tuple[str, str]:
        """Search; returns what to say, and the hits as HTML. Fields that were never opened are None."""
        question = question or ""
        try:
            asked: str | np.ndarray = load_audio(spoken) if spoken and not question.strip() else question
            hits = self.index.search(
                asked,
                k=int(count),
                file=(file or "").strip() or None,
                mode=mode,
                after=_day(after),
                before=_day(before),
            )
        except (ValueError, OSError) as error:
            return f"⚠ {error}", ""
        answered = self.index.answered(hits)
        return "**Not answered here**, as it seems. The nearest:" if answered is False else "", self.show(
            hits
        )

    def show(self, hits: list[Hit]) -> str:
        """Write the hits, and the files that they link to."""
        return "".join(hit_html(rank, hit, self._files(hit)) for rank, hit in enumerate(hits, start=1))

    def _files(self, hit: Hit) -> dict[str, str]:
        """Write passage and transcripts of a hit; returns the address of each."""
        # A folder for each: recordings may have one name, passages begin in one second, and merged hits are longer.
        place = f"{hit.source} {hit.recorded} {hit.start_s} {hit.end_s}"
        folder = Path(self._folder.name) / hashlib.sha256(place.encode()).hexdigest()[:12]
        folder.mkdir(exist_ok=True)
        stem = f"{_plain_name(hit.path)}-{hit.start_s:.0f}s"
        clip, written = folder / f"{stem}.wav", []
        with contextlib.suppress(OSError, ValueError):  # the recording has vanished
            if not clip.exists():
                soundfile.write(clip, read_range(hit.source, hit.start_s, hit.end_s), SAMPLING_RATE)
            written.append(clip)
        for form in FORMATS:
            file = folder / f"{stem}.{form}"
            file.write_text(render(hit.words, form, hit.path), encoding="utf-8")
            written.append(file)
        return {file.suffix[1:]: f"gradio_api/file={file}" for file in written}

    def add(self, files: list[str] | None, progress: gr.Progress = gr.Progress()) -> tuple[str, Any, None]:  # noqa: B008
        """Keep and index uploaded files; returns what was done, the recordings, and the emptied drop area."""
        if not files:
            return "⚠ No files were dropped; drop some.", self.recordings(), None
        self.uploads.mkdir(parents=True, exist_ok=True)
        kept = [_keep(Path(file), self.uploads) for file in files]
        try:
            done = self.index.add(
                kept,
                on_progress=lambda seconds, total: progress(
                    seconds / max(total, 1e-9), desc=f"{clock(seconds)} of {clock(total)} heard"
                ),
            )
        except (ValueError, OSError) as error:
            return f"⚠ {error}", self.recordings(), None
        lines = [f"{done.added} added ({done.passages} passages), {done.skipped} known already."]
        lines += [f"⚠ {message}" for _, message in done.failed]
        return "\n\n".join(lines), self.recordings(), None

    def recordings(self) -> str:
        """Write the list of all recordings in the index."""
        sources = sorted(self.index.sources())
        lines = "".join(
            f'<li title="{html.escape(source)}">{html.escape(Path(source).name)}</li>' for source in sources
        )
        return f"<h3>{len(sources)} recordings in the index</h3><ul>{lines}</ul>"


def _plain_name(path: str) -> str:
    """Return a recording's name without what an address would have to escape."""
    return re.sub(r"[^\w.-]+", "_", Path(path).stem)


def _keep(file: Path, folder: Path) -> Path:
    """Copy an upload under its own name, or a numbered one if another recording has it."""
    number, target = 1, folder / file.name
    while target.exists() and target.read_bytes() != file.read_bytes():
        number += 1
        target = folder / f"{file.stem}-{number}{file.suffix}"
    if not target.exists():
        unfinished = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(file, unfinished)
        unfinished.replace(target)
    return target


def _day(text: str | None) -> date | None:
    """Read a day.

    Raises:
        ValueError: it is none.
    """
    text = (text or "").strip()
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"the day is {text!r} but must be like 2026-11-25; write it so") from error
