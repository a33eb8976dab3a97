"""The sets `spoken-squad-mini`, `-full` and `-long`: Spoken-SQuAD's test questions over sentences spoken anew.

Enters: `qa/spoken_squad_test.jsonl` and its passages. Leaves: clips by a voice that speaks no training text.
"""

import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..data.json_lines import read_json_lines, write_json_lines
from ..data.manifest import Row, read_manifest
from ..data.synthesis import Utterance, read_word_times, speak_manifest
from ..data.voices import TIMED_VOICES
from ..data.word_times import find_answer
from .benchmark_set import BenchmarkSet, Question, draw
from .joining import write_joined

TEST_VOICE = "piper/joe"  # speaks no training clip
MINI_S = (8.0, 15.0)
MINI_QUESTIONS = 300
LONG_RECORDINGS = 3  # of the mini set's clips: 19 minutes each
LONG_PAUSE_S = (0.4, 2.0)  # between clips
MINI_LETTERS = (150, 245)  # of 8 to 15 s, at some 17 a second

Entry = TypeVar("Entry")


def build_spoken_squad_mini(data: Path, out: Path, voice: str = TEST_VOICE, workers: int = 1) -> BenchmarkSet:
    """Speak 300 answer sentences with their neighbours, 8 to 15 s each, one question per clip, articles in turn.

    Args:
        data: the data folder.
        out: gets `clips/*.opus`.
        voice: one of `data.voices.VOICES`.
        workers: processes that speak.
    """
    sentences = {
        row["passage_id"]: row["sentences_clean"]
        for row in read_json_lines(data / "qa/spoken_squad_passages.jsonl.gz")
    }
    candidates = []
    for row in read_json_lines(data / "qa/spoken_squad_test.jsonl"):
        if row.get("answer_sentence_clean"):
            text = with_neighbours(row["answer_sentence_clean"], sentences.get(row["passage_id"], []))
            if text is not None:
                candidates.append((row, text))
    candidates.sort(key=lambda entry: draw(entry[0]["id"]))
    chosen = _one_per_passage(in_turn(candidates, lambda entry: entry[0]["title"]))
    kept: list[tuple[dict, str, Row]] = []
    count = min(MINI_QUESTIONS, len(chosen))
    while True:  # speech is longer or shorter than its letters promise: speak more until enough fit
        utterances = [Utterance(_name(text), text, voice) for _, text in chosen[:count]]
        manifest = speak_manifest(utterances, out, [voice], workers=workers, timed=voice in TIMED_VOICES)
        clips = {row.id: row for row in read_manifest(manifest)}
        spoken = [(row, text, clips[_name(text)]) for row, text in chosen[:count]]
        kept = [entry for entry in spoken if MINI_S[0] <= (entry[2].duration or 0.0) <= MINI_S[1]]
        if len(kept) >= MINI_QUESTIONS or count == len(chosen):
            break
        count = min(count + 2 * (MINI_QUESTIONS - len(kept)), len(chosen))
    kept = kept[:MINI_QUESTIONS]
    return BenchmarkSet(
        [clip for _, _, clip in kept], [_question(row, text, clip) for row, text, clip in kept]
    )


def build_spoken_squad_full(data: Path, out: Path, voice: str = TEST_VOICE, workers: int = 1) -> BenchmarkSet:
    """Speak every known answer sentence once; several questions may share it. Arguments as the mini set's."""
    asked: list[tuple[dict, str]] = []
    utterances: dict[str, Utterance] = {}
    for row in read_json_lines(data / "qa/spoken_squad_test.jsonl"):
        text = row.get("answer_sentence_clean")
        if text:
            utterances.setdefault(_name(text), Utterance(_name(text), text, voice))
            asked.append((row, text))
    manifest = speak_manifest(
        list(utterances.values()), out, [voice], workers=workers, timed=voice in TIMED_VOICES
    )
    passages = read_manifest(manifest)
    clips = {clip.id: clip for clip in passages}
    return BenchmarkSet(passages, [_question(row, text, clips[_name(text)]) for row, text in asked])


def build_spoken_squad_long(data: Path, out: Path, voice: str = TEST_VOICE, workers: int = 1) -> BenchmarkSet:
    """Join the mini set's clips to long recordings; a question's span is where its answer is said in them.

    Neighbours are of different articles, the pauses between them differ. Where each clip lies stands in `joined.jsonl`.
    Arguments as the mini set's.
    """
    mini = build_spoken_squad_mini(data, out, voice, workers)
    order = sorted(mini.passages, key=lambda clip: draw(f"long/{clip.id}"))
    passages: list[Row] = []
    places: dict[str, tuple[str, float]] = {}  # clip -> recording, start
    joined: list[dict] = []
    for number in range(LONG_RECORDINGS):
        clips = order[number::LONG_RECORDINGS]
        name, path = f"long{number + 1}", out / f"long{number + 1}.opus"
        low, high = LONG_PAUSE_S
        pauses = [low + (high - low) * draw(f"pause/{clip.id}") for clip in clips]
        spans = write_joined(path, [clip.audio for clip in clips], pauses)
        places |= {clip.id: (name, start) for clip, (start, _) in zip(clips, spans, strict=True)}
        joined += [
            {"recording": name, "clip": clip.audio, "start": start, "end": end}
            for clip, (start, end) in zip(clips, spans, strict=True)
        ]
        text = " ".join(str(clip.transcript) for clip in clips)
        passages.append(Row(name, str(path), text, context_id=name, speaker=voice, duration=spans[-1][1]))
    questions = []
    for question in mini.questions:
        name, shift = places[question.context_id]
        moved = tuple((round(start + shift, 3), round(end + shift, 3)) for start, end in question.spans)
        questions.append(replace(question, context_id=name, spans=moved))
    write_json_lines(out / "joined.jsonl", joined)
    return BenchmarkSet(passages, questions)


def _question(row: dict, text: str, clip: Row) -> Question:
    """Ask one question; the span is where the voice says the answer, if it tells."""
    answer = clean_answer(row, text)
    timed = clip.speaker in TIMED_VOICES
    span = find_answer(read_word_times(clip.audio), answer) if answer and timed else None
    return Question(row["id"], row["question"], clip.id, answer, (span,) if span else ())


def clean_answer(row: dict, text: str) -> str | None:
    """Return the answer as the clean text writes it; None where the recogniser that found it misheard it.

    >>> clean_answer({"answers": [{"text": "levis stadium"}, {"text": "santa clara"}]}, "At Santa Clara, California.")
    'Santa Clara'
    """
    for answer in row["answers"]:
        words = r"\W+".join(re.findall(r"\w+", answer["text"]))
        found = re.search(rf"\b{words}\b", text, re.IGNORECASE)
        if found and found[0]:
            return found[0]
    return None


def with_neighbours(sentence: str, sentences: Sequence[str]) -> str | None:
    """Add the sentences behind and before until a voice needs about 8 to 15 s.

    Args:
        sentence: that holds the answer.
        sentences: of its passage, in order, as far as they are known.

    Returns:
        The text, or None if no neighbours make it fit.
    """
    low, high = MINI_LETTERS
    first = last = sentences.index(sentence) if sentence in sentences else 0
    text = sentence
    while len(text) < low:
        if last + 1 < len(sentences) and len(text) + len(sentences[last + 1]) < high:
            last += 1
        elif first > 0 and len(text) + len(sentences[first - 1]) < high:
            first -= 1
        else:
            return None
        text = " ".join(sentences[first : last + 1])
    return text if len(text) <= high else None


def in_turn(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> list[Entry]:
    """Order entries so that the keys take turns.

    >>> in_turn(["a1", "a2", "b1"], lambda entry: entry[0])
    ['a1', 'b1', 'a2']
    """
    queues: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        queues.setdefault(key(entry), []).append(entry)
    longest = max(map(len, queues.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


def _one_per_passage(entries: Iterable[tuple[dict, str]]) -> list[tuple[dict, str]]:
    """Keep the first question of each passage and of each text, so that a question has one clip that answers it."""
    kept: list[tuple[dict, str]] = []
    used: set[str] = set()
    for row, text in entries:
        if not used & {row["passage_id"], text}:
            used |= {row["passage_id"], text}
            kept.append((row, text))
    return kept


def _name(text: str) -> str:
    """Name a clip by its words, so that a clip that is there says them."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
