"""The set `real-mix`: real clips joined to passages, and our own questions about them.

Enters: the recorded speech beside the repository. Leaves: passages of 8 to 25 s with the questions of `real_mix.jsonl`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.clips import safe_name
from ..data.json_lines import read_json_lines
from ..data.manifest import Row, read_manifest
from .benchmark_set import BenchmarkSet, Question, draw
from .joining import write_joined

REAL_SETS = ("ljspeech", "librivox", "librispeech", "reread", "prompts")
REAL_MIX = Path(__file__).with_name("real_mix.jsonl")
PASSAGE_S = (8.0, 25.0)
PAUSE_S = (0.3, 0.6)  # between clips
SPLIT_SALT = 17  # the one of 0 to 29 that cuts speakers, passages and questions most evenly


def build_real_mix(data: Path, out: Path, names: Sequence[str] = REAL_SETS) -> BenchmarkSet:
    """Join real clips of one speaker to passages, with the questions of `real_mix.jsonl`.

    Args:
        data: the data folder.
        out: gets `clips/*.opus`.
        names: of the speech sets; questions about others are left out.

    Raises:
        ValueError: a question names another passage than the one its clip is in.
    """
    passages: list[Row] = []
    places: dict[str, tuple[str, float, float]] = {}  # clip -> passage, start, end
    for clips in plan_passages(data, names):
        name = clips[0].id
        path = out / "clips" / f"{safe_name(name)}.opus"
        spans = write_joined(path, [clip.audio for clip in clips], list(map(_pause, clips)))
        places |= {clip.id: (name, *span) for clip, span in zip(clips, spans, strict=True)}
        text = " ".join(str(clip.transcript) for clip in clips)
        passages.append(
            Row(name, str(path), text, context_id=name, speaker=clips[0].speaker, duration=spans[-1][1])
        )
    splits = {row.id: split_of(str(row.speaker)) for row in passages}
    questions = []
    for entry in read_json_lines(REAL_MIX):
        if entry["passage"] not in splits and names != REAL_SETS:
            continue
        found = [places.get(clip, ("no passage", 0.0, 0.0)) for clip in entry["clips"]]
        if {place[0] for place in found} != {entry["passage"]}:
            raise ValueError(
                f"question {entry['id']} names the passage {entry['passage']} but its clip is in {found[0][0]}; "
                "the data differs from that the questions were written on, or the joining rule was changed"
            )
        span = (found[0][1], found[-1][2])
        split = splits[entry["passage"]]
        questions.append(
            Question(entry["id"], entry["question"], entry["passage"], entry["answer"], (span,), split)
        )
    return BenchmarkSet(passages, questions, splits)


def plan_passages(data: Path, names: Sequence[str] = REAL_SETS) -> list[list[Row]]:
    """Return the clips of each passage.

    Clips stay in the order of their list, so neighbours were recorded one after the other where the recording goes
    on. Sentences that another set says, too, are left out, so that a question has one answer.
    """
    said: set[str] = set()
    return [clips for run in _runs(data, names, said) for clips in join_clips(run)]


def join_clips(clips: Sequence[Row]) -> list[list[Row]]:
    """Cut one speaker's clips into passages, each as short as `PASSAGE_S` allows.

    Clips that are too short alone and too long with the next go to the passage before, or are left out.
    """
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


def split_of(speaker: str) -> str:
    """Return "heldout" for speakers no training may hear, even without words, and "seen" for the others.

    Drawn from the name, so that training can ask, too.
    """
    return "heldout" if draw(f"real-mix/{SPLIT_SALT}/{speaker}") < 0.5 else "seen"


def _runs(data: Path, names: Sequence[str], said: set[str]) -> Iterator[list[Row]]:
    """Yield runs of clips by one speaker of one set."""
    for name in names:
        file = data / "speech" / f"{name}.jsonl"
        # One prompt is listed twice; its first text is the true one.
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


def _length(clips: Sequence[Row]) -> float:
    """Return the seconds of joined clips."""
    return sum(clip.duration or 0.0 for clip in clips) + sum(map(_pause, clips[:-1]))


def _pause(clip: Row) -> float:
    """Return the seconds of silence behind a clip."""
    low, high = PAUSE_S
    return low + (high - low) * draw(f"pause/{clip.id}")
