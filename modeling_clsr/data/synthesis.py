"""Spoken data from text: sentences in, clips and a manifest out, by several voices.

    python -m modeling_clsr.data.synthesis texts.jsonl --out speech --voices flite/slt,hibari/heart --text sentence

Voice and speed of a text are drawn from the seed and its id. A second run makes only what is missing.
"""

import argparse
import gzip
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from .clips import safe_name
from .manifest import Row, write_manifest
from .voices import VOICES, open_timed_voice, open_voice, write_opus
from .word_times import TimedWord

SPEEDS = (0.9, 1.12)  # range that the pace is drawn from
LEVEL_DBFS = (-27.0, -17.0)  # range of the RMS level
PEAK = 0.95


@dataclass(frozen=True)
class Utterance:
    """One text to speak.

    Attributes:
        id: names the clip.
        text: what is said.
        voice: one of `voices.VOICES`; drawn if None.
        questions: that it answers; each becomes a row of its own over the same clip.
        context_id: of its passage; the id if None.
        answer: words of the text.
    """

    id: str
    text: str
    voice: str | None = None
    questions: tuple[str, ...] = ()
    context_id: str | None = None
    answer: str | None = None


def speak_manifest(
    utterances: Iterable[Utterance],
    folder: str | Path,
    voices: Sequence[str],
    seed: int = 0,
    workers: int = 1,
    max_hours: float | None = None,
    timed: bool = False,
) -> Path:
    """Speak texts and write `folder/manifest.jsonl`.

    Args:
        utterances: with different ids.
        folder: gets `clips/*.opus`, 16 kHz mono. Clips that are there, of the same text, voice and seed, are kept.
        voices: to draw from.
        seed: of the draws.
        workers: processes.
        max_hours: stop when the clips are this long in all; None speaks everything.
        timed: write the times of the words beside each clip, for `read_word_times`; clips without them are made again.

    Returns:
        The manifest: one row per clip, or per question of a clip.

    Raises:
        ValueError: a text is empty, an id stands twice, a voice is unknown or tells no times.
        ImportError: an engine is not installed.
    """
    folder = Path(folder)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    assigned = [_assign(utterance, voices, seed) for utterance in _checked(utterances)]
    for voice in sorted({utterance.voice for utterance in assigned if utterance.voice}):
        _open(voice, timed)  # complain before hours of work
    done: list[tuple[Utterance, float]] = []
    total = 0.0  # seconds
    with tqdm(total=len(assigned), unit="clip", desc="speak") as bar:
        for utterance, seconds in _spoken(assigned, folder, seed, workers, timed):
            done.append((utterance, seconds))
            total += seconds
            bar.update()
            bar.set_postfix(hours=f"{total / 3600:.2f}", refresh=False)
            if max_hours is not None and total >= 3600 * max_hours:
                break
    return write_manifest(folder / "manifest.jsonl", _rows(done, folder, seed))


def split_by_text_and_voice(
    utterances: Sequence[Utterance],
    voices: Sequence[str],
    held_out: Sequence[str],
    share: float = 0.1,
    seed: int = 0,
) -> tuple[list[Utterance], list[Utterance]]:
    """Divide texts so that training and test share neither a passage nor a voice.

    Args:
        utterances: all texts.
        voices: of the training.
        held_out: voices of the test.
        share: of the passages that are tested.
        seed: of the draw.

    Returns:
        Utterances of the training and of the test, with their voices.

    Raises:
        ValueError: a voice is on both sides.
    """
    both = set(voices) & set(held_out)
    if both:
        raise ValueError(
            f"the voice {min(both)} is in voices and in held_out; a test voice must be new to the model"
        )
    sides: tuple[list[Utterance], list[Utterance]] = ([], [])
    for utterance in utterances:
        is_test = _draw(seed, "split", utterance.context_id or utterance.id) < share
        sides[is_test].append(_assign(replace(utterance, voice=None), held_out if is_test else voices, seed))
    return sides


def read_texts(
    path: str | Path, text: str = "text", question: str | None = None, join_to: int = 0
) -> Iterator[Utterance]:
    """Read texts to speak.

    Args:
        path: `.jsonl`, `.tsv` (id, text) or `.txt`, one entry a line, also with `.gz`.
        text: field of the JSON Lines.
        question: field of a question, or null; lines with the same text become one clip with several questions.
        join_to: join neighbouring texts until a clip has this many characters; 0 speaks each alone.
    """
    path = Path(path)
    stem = path.name.split(".")[0]
    questions: dict[str, list[str]] = {}
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            if ".jsonl" in path.name:
                entry = json.loads(line)
                asked = [entry[question]] if question and entry[question] else []
                questions.setdefault(" ".join(str(entry[text]).split()), []).extend(asked)
            else:
                questions.setdefault(" ".join(line.split("\t")[-1].split()), [])
    joined, start = "", 0
    for number, (entry_text, asked) in enumerate(questions.items()):
        if not joined:
            start = number
        joined = f"{joined} {entry_text}".strip()
        if len(joined) >= join_to or number == len(questions) - 1:
            yield Utterance(f"{stem}-{start:06d}", joined, questions=tuple(dict.fromkeys(asked)))
            joined = ""


def _checked(utterances: Iterable[Utterance]) -> list[Utterance]:
    seen: dict[str, int] = {}
    found = list(utterances)
    for number, utterance in enumerate(found, start=1):
        if not utterance.text.strip():
            raise ValueError(f"text {number} ({utterance.id}) is empty; fill it or drop it")
        if utterance.id in seen:
            raise ValueError(
                f"text {number} has the id {utterance.id!r} of text {seen[utterance.id]}; make ids different"
            )
        seen[utterance.id] = number
    return found


def _assign(utterance: Utterance, voices: Sequence[str], seed: int) -> Utterance:
    if utterance.voice is not None:
        return utterance
    return replace(utterance, voice=voices[int(_draw(seed, "voice", utterance.id) * len(voices))])


def _spoken(
    utterances: list[Utterance], folder: Path, seed: int, workers: int, timed: bool
) -> Iterator[tuple[Utterance, float]]:
    """Yield each text with the seconds of its clip, in order."""
    jobs = [(utterance, _clip(folder, utterance, seed), seed, timed) for utterance in utterances]
    if workers <= 1:
        yield from zip(utterances, map(_speak, jobs), strict=True)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from zip(utterances, pool.map(_speak, jobs, chunksize=8), strict=True)


def _open(voice: str, timed: bool) -> Callable:
    return open_timed_voice(voice) if timed else open_voice(voice)


_opened = cache(_open)  # of this process: loading a voice takes seconds


def _speak(job: tuple[Utterance, Path, int, bool]) -> float:
    utterance, path, seed, timed = job
    if not (path.exists() and (not timed or _times_file(path).exists())):
        assert utterance.voice is not None
        low, high = SPEEDS
        speed = low + (high - low) * _draw(seed, "speed", utterance.id)
        spoken = _opened(utterance.voice, timed)(utterance.text, speed)
        samples, words = spoken if timed else (spoken, None)
        write_opus(path, _levelled(samples, seed, utterance.id))
        if words is not None:
            lines = [json.dumps(asdict(word), ensure_ascii=False) for word in words]
            _times_file(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return soundfile.info(path).duration


def read_word_times(clip: str | Path) -> list[TimedWord]:
    """Read when each word of a clip is said, as the voice that spoke it knows.

    Args:
        clip: made by `speak_manifest` with `timed`.

    Raises:
        FileNotFoundError: its times were not written.
    """
    file = _times_file(Path(clip))
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there; speak the clip with timed=True to know when its words are said"
        )
    return [TimedWord(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _times_file(clip: Path) -> Path:
    return clip.with_suffix(".words.jsonl")


def _levelled(samples: np.ndarray, seed: int, name: str) -> np.ndarray:
    """Bring a clip to a drawn level."""
    low, high = LEVEL_DBFS
    rms = float(np.sqrt(np.mean(np.square(samples)))) or 1.0
    gain = 10 ** ((low + (high - low) * _draw(seed, "level", name)) / 20) / rms
    return samples * min(gain, PEAK / (float(np.abs(samples).max()) or 1.0))


def _rows(done: list[tuple[Utterance, float]], folder: Path, seed: int) -> Iterator[Row]:
    for utterance, seconds in done:
        row = Row(
            utterance.id,
            str(_clip(folder, utterance, seed)),
            transcript=utterance.text,
            context_id=utterance.context_id or utterance.id,
            answer=utterance.answer,
            speaker=utterance.voice,
            duration=round(seconds, 3),
        )
        if not utterance.questions:
            yield row
        for number, question in enumerate(utterance.questions):
            yield replace(row, id=f"{utterance.id}-q{number}", question=question)


def _clip(folder: Path, utterance: Utterance, seed: int) -> Path:
    """Name a clip by what it depends on, so that another text, voice or seed never finds it in its place."""
    content = json.dumps([utterance.id, utterance.text, utterance.voice, seed])
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return folder / "clips" / f"{safe_name(utterance.id)}-{digest}.opus"


def _draw(seed: int, what: str, name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}/{what}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_clsr.data.synthesis",
        description="Speak texts into clips and a manifest. Run it again to go on where it stopped.",
        epilog=f"voices: {', '.join(VOICES)}",
    )
    parser.add_argument("texts", nargs="+", help=".jsonl, .tsv or .txt, also with .gz")
    parser.add_argument("--out", required=True, help="folder for clips/ and manifest.jsonl")
    parser.add_argument("--voices", required=True, help="one or several with commas")
    parser.add_argument("--text", default="text", help="field of the text in .jsonl")
    parser.add_argument("--question", help="field of a question that the text answers, in .jsonl")
    parser.add_argument(
        "--join_to", type=int, default=0, help="join neighbours to clips of this many characters"
    )
    parser.add_argument("--skip", type=int, default=0, help="texts to leave out at the start")
    parser.add_argument("--limit", type=int, help="most texts to speak")
    parser.add_argument("--max_hours", type=float, help="stop when the clips are this long in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    try:
        found = [
            utterance
            for path in args.texts
            for utterance in read_texts(path, args.text, args.question, args.join_to)
        ]
        chosen = found[args.skip :][: args.limit]
        voices = args.voices.split(",")
        manifest = speak_manifest(chosen, args.out, voices, args.seed, args.workers, args.max_hours)
    except (ValueError, ImportError, FileNotFoundError, KeyError) as error:
        sys.exit(f"synthesis: {error}")
    sys.stderr.write(f"{manifest}\n")


if __name__ == "__main__":
    main()
