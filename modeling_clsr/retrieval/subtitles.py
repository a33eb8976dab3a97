"""Transcripts as files: timed words in, SubRip, WebVTT, JSON or plain text out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..transcript_clsr import Word
from .moments import CLAUSE_ENDS, SENTENCE_ENDS

FORMATS = ("srt", "vtt", "json", "txt")
MAX_CHARACTERS = 84  # of a cue: two lines of 42, as broadcasters do
LINE_CHARACTERS = 42
MAX_CUE_S = 7.0
PAUSE_S = 0.8  # a pause of this length ends a cue


@dataclass(frozen=True)
class Cue:
    """A piece of text on screen, from start to end, in seconds."""

    start: float
    end: float
    text: str


def cut_cues(words: Sequence[Word]) -> list[Cue]:
    """Cut words into cues: at sentence ends and pauses, else at a comma or the length that fits on screen.

    Args:
        words: in order of time.

    Returns:
        Cues in order; none overlaps the next.
    """
    cues: list[Cue] = []
    current: list[Word] = []
    for place, word in enumerate(words):
        current.append(word)
        following = words[place + 1] if place + 1 < len(words) else None
        if following is None or _ends(current, following):
            start = max(current[0].start, cues[-1].end if cues else 0.0)
            end = max(current[-1].end, start)
            if following is not None:
                end = max(min(end, following.start), start)
            cues.append(Cue(round(start, 3), round(end, 3), _joined(current)))
            current = []
    return cues


def render(words: Sequence[Word], form: str, source: str = "") -> str:
    """Write words in one of `FORMATS`.

    Args:
        words: in order of time, in seconds from the start of the recording.
        form: "srt", "vtt", "json" (every word with its times) or "txt" (a line for each sentence).
        source: name of the recording, for JSON.

    Raises:
        ValueError: the format is unknown.
    """
    if form == "json":
        content = {"source": source, "text": _joined(words), "words": [asdict(word) for word in words]}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if form == "txt":
        return "".join(f"{line}\n" for line in _sentences(words))
    if form not in FORMATS:
        raise ValueError(f"the format is {form!r} but must be one of {', '.join(FORMATS)}; choose one")
    lines = ["WEBVTT", ""] if form == "vtt" else []
    for number, cue in enumerate(cut_cues(words), start=1):
        mark = "." if form == "vtt" else ","
        lines += [str(number), f"{_time(cue.start, mark)} --> {_time(cue.end, mark)}", _wrapped(cue.text), ""]
    return "\n".join(lines) + ("\n" if lines else "")


def _ends(current: list[Word], following: Word) -> bool:
    text, last = _joined(current), current[-1].text.strip()
    longer = len(text) + 1 + len(following.text.strip())
    return (
        following.start - current[-1].end >= PAUSE_S
        or longer > MAX_CHARACTERS
        or following.end - current[0].start > MAX_CUE_S
        or (last.endswith(SENTENCE_ENDS) and len(text) > LINE_CHARACTERS / 2)
        or (last.endswith(CLAUSE_ENDS) and len(text) > 1.5 * LINE_CHARACTERS)
    )


def _sentences(words: Sequence[Word]) -> list[str]:
    sentences: list[str] = []
    current: list[Word] = []
    for word in words:
        current.append(word)
        if word.text.strip().endswith(SENTENCE_ENDS):
            sentences.append(_joined(current))
            current = []
    return sentences + ([_joined(current)] if current else [])


def _joined(words: Sequence[Word]) -> str:
    return " ".join(word.text.strip() for word in words)


def _wrapped(text: str) -> str:
    """Break a cue near its middle if one line is too short for it."""
    if len(text) <= LINE_CHARACTERS:
        return text
    spaces = [place for place, letter in enumerate(text) if letter == " "]
    if not spaces:
        return text
    cut = min(spaces, key=lambda place: abs(place - len(text) / 2))
    return f"{text[:cut]}\n{text[cut + 1 :]}"


def _time(seconds: float, mark: str) -> str:
    whole = round(1000 * seconds)
    hours, rest = divmod(whole, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
