"""The benchmark sets: questions over clips or long recordings, built from texts and speech beside the repository.

    python -m modeling_clsr.evaluation.sets spoken-squad-mini --data ../shared/data --out sets/spoken-squad-mini

Enters: the data folder. Leaves: a folder with `passages.jsonl` (rows), `questions.jsonl` and the audio.
"""

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..data.audio import SAMPLING_RATE, load_audio
from ..data.manifest import Row, read_manifest, write_manifest
from ..data.synthesis import Utterance, safe_name, speak_manifest
from ..data.voices import write_opus
from ..hub.stamp import make_stamp

TEST_VOICE = "piper/joe"  # speaks no training clip
MEETING_VOICES = (
    "hibari/heart",
    "flite/rms",
    "flite/slt",
    "flite/awb",
    "espeak/en-gb-scotland",
    "espeak/en-us+f3",
)
REAL_SETS = ("ljspeech", "librivox", "librispeech", "reread", "prompts")
REAL_MIX = Path(__file__).with_name("real_mix.jsonl")
PASSAGE_S = (8.0, 25.0)  # of real-mix
MINI_S = (8.0, 15.0)
MINI_QUESTIONS = 300
MEETINGS = 20
MIN_MEETING_WORDS = 5400  # 30 minutes at 180 words a minute


@dataclass(frozen=True)
class Question:
    """One question of a set.

    Attributes:
        id: unique in the set.
        question: its text.
        context_id: of the passages that answer it.
        answer: in words, as the passage says it where known.
        spans: [start, end] in seconds of the passage, where the answer is; empty if unknown.
    """

    id: str
    question: str
    context_id: str
    answer: str | None = None
    spans: tuple[tuple[float, float], ...] = ()


def build_real_mix(
    data: Path, out: Path, names: Sequence[str] = REAL_SETS
) -> tuple[list[Row], list[Question]]:
    """Join real clips of one speaker to passages of 8 to 25 s, with the questions of `real_mix.jsonl`.

    Sentences that another set says, too, are left out, so that every question has one answer.

    Args:
        data: the data folder.
        out: gets `clips/*.opus`.
        names: of the speech sets; questions about others are left out.
    """
    passages: list[Row] = []
    places: dict[str, tuple[str, float, float]] = {}  # clip -> passage, start, end
    said: set[str] = set()
    for group in _groups(data, names, said):
        for clips in _joined(group):
            name = clips[0].id
            path, spans = _write_passage(out, name, clips)
            places |= {clip.id: (name, *span) for clip, span in zip(clips, spans, strict=True)}
            text = " ".join(str(clip.transcript) for clip in clips)
            passages.append(
                Row(name, str(path), text, context_id=name, speaker=clips[0].speaker, duration=spans[-1][1])
            )
    questions = []
    for entry in map(json.loads, REAL_MIX.read_text(encoding="utf-8").splitlines()):
        if entry["clip"] not in places and names != REAL_SETS:
            continue
        name, start, end = places[entry["clip"]]
        questions.append(Question(entry["id"], entry["question"], name, entry["answer"], ((start, end),)))
    return passages, questions


def build_spoken_squad_mini(
    data: Path, out: Path, voice: str = TEST_VOICE
) -> tuple[list[Row], list[Question]]:
    """Speak 300 answer sentences with their neighbours, 8 to 15 s each, one question per clip, articles in turn."""
    sentences = {
        row["passage_id"]: row["sentences_clean"]
        for row in _lines(data / "qa/spoken_squad_passages.jsonl.gz")
    }
    candidates = []
    for row in _lines(data / "qa/spoken_squad_test.jsonl"):
        if row.get("answer_sentence_clean"):
            text = _with_neighbours(row["answer_sentence_clean"], sentences.get(row["passage_id"], []))
            if text is not None:
                candidates.append((row, text))
    candidates.sort(key=lambda entry: _draw(entry[0]["id"]))
    chosen = _one_per_text(_in_turn(candidates, lambda entry: entry[0]["title"]))
    passages: list[Row] = []
    questions: list[Question] = []
    # Speech is longer or shorter than its letters promise: a fifth more is spoken than kept.
    utterances = [Utterance(row["id"], text, voice) for row, text in chosen[: MINI_QUESTIONS * 6 // 5]]
    spoken = {row.id: row for row in read_manifest(speak_manifest(utterances, out, [voice]))}
    for row, _ in chosen[: len(utterances)]:
        clip = spoken[row["id"]]
        if MINI_S[0] <= (clip.duration or 0.0) <= MINI_S[1] and len(passages) < MINI_QUESTIONS:
            passages.append(clip)
            questions.append(Question(row["id"], row["question"], clip.id, row["answers"][0]["text"]))
    return passages, questions


def build_spoken_squad_full(
    data: Path, out: Path, voice: str = TEST_VOICE
) -> tuple[list[Row], list[Question]]:
    """Speak every known answer sentence once; several questions may share it."""
    questions: list[Question] = []
    utterances: dict[str, Utterance] = {}
    for row in _lines(data / "qa/spoken_squad_test.jsonl"):
        text = row.get("answer_sentence_clean")
        if text:
            name = hashlib.sha256(text.encode()).hexdigest()[:12]
            utterances.setdefault(name, Utterance(name, text, voice))
            questions.append(Question(row["id"], row["question"], name, row["answers"][0]["text"]))
    return read_manifest(speak_manifest(list(utterances.values()), out, [voice])), questions


def build_qmsum_long(
    data: Path, out: Path, voices: Sequence[str] = MEETING_VOICES, meetings: int = MEETINGS
) -> tuple[list[Row], list[Question]]:
    """Speak whole meetings of 30 minutes and more, a voice per speaker; questions name the time of their turns."""
    long = [
        row
        for row in _lines(data / "qa/qmsum.jsonl.gz")
        if _words(row) >= MIN_MEETING_WORDS and row["queries"]
    ]
    chosen = sorted(long, key=lambda row: (_words(row), row["id"]))[
        :meetings
    ]  # the shortest of the long ones
    passages, questions = [], []
    for meeting in chosen:
        path = out / f"{safe_name(meeting['id'])}.opus"
        times = _speak_meeting(meeting, out, path, voices)
        duration = soundfile.info(path).duration
        text = " ".join(turn["text"] for turn in meeting["transcript"])
        passages.append(
            Row(meeting["id"], str(path), text, context_id=meeting["id"], duration=round(duration, 3))
        )
        for number, query in enumerate(meeting["queries"]):
            spans = tuple(
                (times[first][0], times[last][1]) for first, last in query["spans"] if last < len(times)
            )
            name = f"{meeting['id']}-{number}"
            questions.append(Question(name, query["query"], meeting["id"], query["answer"], spans))
    return passages, questions


BUILDERS = {
    "real-mix": build_real_mix,
    "spoken-squad-mini": build_spoken_squad_mini,
    "spoken-squad-full": build_spoken_squad_full,
    "qmsum-long": build_qmsum_long,
}


def build_set(name: str, data: str | Path, out: str | Path) -> Path:
    """Build one set.

    Args:
        name: one of `BUILDERS`.
        data: folder with `qa` and `speech`.
        out: folder to write; clips that are there are kept.

    Returns:
        `out`, with `passages.jsonl`, `questions.jsonl` and `stamp.json`.

    Raises:
        FileNotFoundError: the data is not there.
    """
    data, out = Path(data), Path(out)
    if not (data / "qa").is_dir():
        raise FileNotFoundError(f"{data} has no folder qa; give the data folder with qa/ and speech/")
    out.mkdir(parents=True, exist_ok=True)
    stamp = make_stamp()
    passages, questions = BUILDERS[name](data, out)
    write_manifest(out / "passages.jsonl", passages)
    lines = [json.dumps(asdict(question), ensure_ascii=False) for question in questions]
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = stamp | {
        "set": name,
        "passages": len(passages),
        "questions": len(questions),
        "hours": sum(row.duration or 0.0 for row in passages) / 3600,
        "data_sha256": hashlib.sha256((data / "SHA256SUMS").read_bytes()).hexdigest(),
    }
    (out / "stamp.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return out


def read_questions(folder: str | Path) -> list[Question]:
    """Read the questions of a built set."""
    lines = (Path(folder) / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = map(json.loads, lines)
    return [Question(**(row | {"spans": tuple(tuple(span) for span in row["spans"])})) for row in records]


def _groups(data: Path, names: Sequence[str], said: set[str]) -> Iterator[list[Row]]:
    """Yield runs of clips by one speaker of one set, without sentences said before."""
    for name in names:
        file = data / "speech" / f"{name}.jsonl"
        # Two prompts have the id of another one.
        rows = read_manifest(file, {"duration": "dur"}, audio_root=data, skip_bad_rows=name == "prompts")
        run: list[Row] = []
        for row in rows:
            text = " ".join(str(row.transcript).lower().split())
            if (row.duration or 0.0) > PASSAGE_S[1] or (text in said and name != "prompts"):
                continue
            said.add(text)
            if run and run[-1].speaker != row.speaker:
                yield run
                run = []
            run.append(row)
        yield run


def _joined(clips: Sequence[Row]) -> list[list[Row]]:
    """Cut a run into passages; clips that are too short alone and too long with the next go to the passage before."""
    passages: list[list[Row]] = []
    current: list[Row] = []
    for clip in [*clips, None]:
        if current and (
            clip is None or _length(current) >= PASSAGE_S[0] or _length([*current, clip]) > PASSAGE_S[1]
        ):
            if _length(current) >= PASSAGE_S[0]:
                passages.append(current)
            elif passages and _length([*passages[-1], *current]) <= PASSAGE_S[1]:
                passages[-1].extend(current)
            current = []
        if clip is not None:
            current.append(clip)
    return passages


def _length(clips: Sequence[Row]) -> float:
    return sum((clip.duration or 0.0) + _pause(clip) for clip in clips)


def _pause(clip: Row) -> float:
    """Seconds of silence behind a clip."""
    return 0.3 + 0.3 * _draw(f"pause/{clip.id}")


def _write_passage(out: Path, name: str, clips: Sequence[Row]) -> tuple[Path, list[tuple[float, float]]]:
    """Join clips; return the file and where each clip is in it, in seconds."""
    path = out / "clips" / f"{safe_name(name)}.opus"
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces, spans, position = [], [], 0
    for clip in clips:
        samples = load_audio(clip.audio)
        spans.append(
            (round(position / SAMPLING_RATE, 3), round((position + len(samples)) / SAMPLING_RATE, 3))
        )
        silence = np.zeros(int(_pause(clip) * SAMPLING_RATE), dtype=np.float32)
        pieces += [samples, silence]
        position += len(samples) + len(silence)
    if not path.exists():
        write_opus(path, np.concatenate(pieces[:-1]))
    return path, spans


def _with_neighbours(sentence: str, sentences: Sequence[str]) -> str | None:
    """Add the sentences behind and before until a voice needs about 8 to 15 s; None if that cannot be."""
    low, high = 125, 205  # characters, at some 15 a second
    if sentence not in sentences:
        return sentence if low <= len(sentence) <= high else None
    first = last = sentences.index(sentence)
    text = sentence
    while len(text) < low:
        if last + 1 < len(sentences) and len(text) + len(sentences[last + 1]) <= high:
            last += 1
        elif first > 0 and len(text) + len(sentences[first - 1]) <= high:
            first -= 1
        else:
            return None
        text = " ".join(sentences[first : last + 1])
    return text if len(text) <= high else None


def _in_turn(entries: Iterable[Any], key: Any) -> list[Any]:
    """Order entries so that the keys take turns."""
    queues: dict[Any, list[Any]] = {}
    for entry in entries:
        queues.setdefault(key(entry), []).append(entry)
    longest = max(map(len, queues.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


def _one_per_text(entries: Iterable[tuple[dict, str]]) -> list[tuple[dict, str]]:
    """Keep the first question of each text, and none whose text shares a sentence with one before."""
    kept, used = [], set()
    for row, text in entries:
        if row["passage_id"] not in used:
            used.add(row["passage_id"])
            kept.append((row, text))
    return kept


def _speak_meeting(meeting: dict, out: Path, path: Path, voices: Sequence[str]) -> list[tuple[float, float]]:
    """Speak the turns of a meeting into one recording; return the times of the turns."""
    speakers = list(dict.fromkeys(turn["speaker"] for turn in meeting["transcript"]))
    folder = out / "turns" / safe_name(meeting["id"])
    utterances = [
        Utterance(f"t{number:05d}", turn["text"], voices[speakers.index(turn["speaker"]) % len(voices)])
        for number, turn in enumerate(meeting["transcript"])
        if any(c.isalnum() for c in turn["text"])
    ]
    spoken = {row.id: row for row in read_manifest(speak_manifest(utterances, folder, voices))}
    times, pieces, position = [], [], 0
    for number in range(len(meeting["transcript"])):
        row = spoken.get(f"t{number:05d}")
        samples = np.zeros(0, dtype=np.float32) if row is None else load_audio(row.audio)
        times.append(
            (round(position / SAMPLING_RATE, 3), round((position + len(samples)) / SAMPLING_RATE, 3))
        )
        pieces += [samples, np.zeros(SAMPLING_RATE // 4, dtype=np.float32)]
        position += len(samples) + SAMPLING_RATE // 4
    if not path.exists():
        write_opus(path, np.concatenate(pieces))
    return times


def _words(meeting: dict) -> int:
    return sum(len(turn["text"].split()) for turn in meeting["transcript"])


def _lines(path: Path) -> Iterator[dict]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _draw(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_clsr.evaluation.sets",
        description="Build a benchmark set; run it again to go on.",
    )
    parser.add_argument("name", choices=BUILDERS)
    parser.add_argument("--data", default="../shared/data", help="folder with qa/ and speech/")
    parser.add_argument("--out", required=True, help="folder to write")
    args = parser.parse_args(argv)
    try:
        out = build_set(args.name, args.data, args.out)
    except (ValueError, ImportError, FileNotFoundError) as error:
        sys.exit(f"sets: {error}")
    stamp = json.loads((out / "stamp.json").read_text(encoding="utf-8"))
    sys.stderr.write(
        f"{out}: {stamp['questions']} questions, {stamp['passages']} passages, {stamp['hours']:.2f} h\n"
    )


if __name__ == "__main__":
    main()
