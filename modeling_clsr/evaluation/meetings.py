"""The set `qmsum-long`: whole meetings of QMSum spoken by several voices, questions with the times of their turns.

Enters: `qa/qmsum.jsonl.gz`. Leaves: one recording of 30 minutes or more per meeting.
"""

from collections.abc import Sequence
from pathlib import Path

from ..data.clips import safe_name
from ..data.json_lines import read_json_lines
from ..data.manifest import Row, read_manifest
from ..data.synthesis import Utterance, speak_manifest
from .benchmark_set import BenchmarkSet, Question, draw
from .joining import write_joined
from .spoken_squad import in_turn

# One for each speaker of a meeting; `joe` speaks no training clip, espeak's en-us, en-gb and en-gb-x-rp none of
# those in docs/data.md.
MEETING_VOICES = (
    "piper/joe",
    "flite/rms",
    "flite/slt",
    "espeak/en-gb",
    "hibari/heart",
    "flite/awb",
    "espeak/en-us",
    "espeak/en-gb+f2",
    "flite/kal16",
    "espeak/en-gb-x-rp+m3",
    "espeak/en-us+f3",
    "espeak/en-gb-scotland",
)
MEETINGS = 20
MEETING_S = 1800.0
WORDS_PER_MINUTE = 215  # of these voices, pauses included, about: shorter meetings are not spoken
TURN_PAUSE_S = 0.25


def build_qmsum_long(
    data: Path,
    out: Path,
    voices: Sequence[str] = MEETING_VOICES,
    meetings: int = MEETINGS,
    min_s: float = MEETING_S,
    workers: int = 1,
) -> BenchmarkSet:
    """Speak whole meetings, a voice for each speaker.

    The kinds of meetings (product, academic, committee) take turns, in each the shortest that are long enough first.

    Args:
        data: the data folder.
        out: gets one recording per meeting, and its turns.
        voices: meetings of more speakers than these are left out.
        meetings: how many.
        min_s: shortest recording.
        workers: processes that speak.
    """
    suited = [
        meeting
        for meeting in read_json_lines(data / "qa/qmsum.jsonl.gz")
        if meeting["queries"]
        and len(_speakers(meeting)) <= len(voices)
        and _words(meeting) >= WORDS_PER_MINUTE * min_s / 60
    ]
    suited.sort(key=lambda meeting: (_words(meeting), meeting["id"]))
    content = BenchmarkSet([], [])
    for meeting in in_turn(suited, lambda meeting: meeting["domain"]):
        if len(content.passages) == meetings:
            break
        name = meeting["id"]
        turns, times = _speak_turns(meeting, out / "turns" / safe_name(name), voices, workers)
        duration = times[-1][1]
        if duration < min_s:
            continue
        path = out / f"{safe_name(name)}.opus"
        if not path.exists():
            write_joined(path, turns, [TURN_PAUSE_S] * len(turns))
        text = " ".join(turn["text"] for turn in meeting["transcript"])
        content.passages.append(Row(name, str(path), text, context_id=name, duration=duration))
        for number, query in enumerate(meeting["queries"]):
            spans = tuple((times[first][0], times[last][1]) for first, last in query["spans"])
            content.questions.append(
                Question(f"{name}-{number}", query["query"], name, query["answer"].strip(), spans)
            )
    return content


def _speak_turns(
    meeting: dict, folder: Path, voices: Sequence[str], workers: int
) -> tuple[list[str | None], list[tuple[float, float]]]:
    """Speak each turn of a meeting.

    Returns:
        The clip of each turn, None where nothing can be spoken, and its start and end in the recording, in seconds.
    """
    first = int(draw(meeting["id"]) * len(voices))  # so that all voices are heard in meetings of few
    voice_of = {
        speaker: voices[(first + number) % len(voices)] for number, speaker in enumerate(_speakers(meeting))
    }
    utterances = [
        Utterance(f"t{number:05d}", turn["text"], voice_of[turn["speaker"]])
        for number, turn in enumerate(meeting["transcript"])
        if any(letter.isalnum() for letter in turn["text"])
    ]
    manifest = speak_manifest(utterances, folder, voices, workers=workers)
    spoken = {row.id: row for row in read_manifest(manifest)}
    turns: list[str | None] = []
    times, position = [], 0.0
    for number in range(len(meeting["transcript"])):
        row = spoken.get(f"t{number:05d}")
        turns.append(row.audio if row else None)
        end = position + ((row.duration or 0.0) if row else 0.0)
        times.append((round(position, 3), round(end, 3)))
        position = end + TURN_PAUSE_S
    return turns, times


def _speakers(meeting: dict) -> list[str]:
    return list(dict.fromkeys(turn["speaker"] for turn in meeting["transcript"]))


def _words(meeting: dict) -> int:
    return sum(len(turn["text"].split()) for turn in meeting["transcript"])
