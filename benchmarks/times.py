"""Are the times right? Hits and words of an index against recordings whose every clip and word has a known time.

    python benchmarks/times.py --set sets/spoken-squad-long --json benchmarks/results/times.json

The recordings are joined from clips of a voice that decides how long each phoneme lasts, so word times are exact.
"""

import argparse
import difflib
import json
import tempfile
from pathlib import Path

import numpy as np

from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.synthesis import read_word_times
from modeling_clsr.data.word_times import TimedWord
from modeling_clsr.evaluation.evaluator import load_set
from modeling_clsr.evaluation.metrics import proportion_interval
from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval import Encoder, Hit, SpeechIndex
from modeling_clsr.transcript_clsr import Word

TOLERANCE_S = 0.3
SAME_WORDS = 0.5  # of a moment's words that a clip must say to be the one that was found


def true_words(folder: Path) -> dict[str, list[tuple[dict, list[TimedWord]]]]:
    """Return by recording its clips with their words, timed from the start of the recording."""
    found: dict[str, list] = {}
    for clip in read_json_lines(folder / "joined.jsonl"):
        words = [
            TimedWord(word.text, word.start + clip["start"], word.end + clip["start"])
            for word in read_word_times(clip["clip"])
        ]
        found.setdefault(clip["recording"], []).append((clip, words))
    return found


def plain(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())


def time_errors(heard: list[Word], said: list[TimedWord]) -> list[tuple[float, float]]:
    """Return the errors of start and end, in seconds, of the words that were heard right."""
    matcher = difflib.SequenceMatcher(
        a=[plain(word.text) for word in said], b=[plain(word.text) for word in heard], autojunk=False
    )
    return [
        (heard[b + n].start - said[a + n].start, heard[b + n].end - said[a + n].end)
        for a, b, size in matcher.get_matching_blocks()
        for n in range(size)
    ]


def clip_of(hit: Hit, clips: list[tuple[dict, list[TimedWord]]]) -> dict | None:
    """Return the clip whose words the moment of a hit says, by the words alone."""
    if hit.moment is None:
        return None
    words = {plain(word) for word in hit.moment.text.split()}
    shares = [len(words & {plain(word.text) for word in said}) / max(len(words), 1) for _, said in clips]
    best = int(np.argmax(shares))
    return clips[best][0] if shares[best] >= SAME_WORDS else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", required=True, help="folder of the built set spoken-squad-long")
    parser.add_argument("--index", help="index of its recordings, to be found again; temporary if left out")
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    stamp, folder = make_stamp(), Path(args.set)
    recordings, questions = load_set(folder)
    names = {str(Path(row.audio).absolute()): row.id for row in recordings}
    clips = true_words(folder)
    encoder = Encoder.from_pretrained(default_checkpoint())
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(args.index or f"{temporary}/index")
        index = SpeechIndex.open_or_create(place, encoder)
        index.add([row.audio for row in recordings], progress=True)
        errors = []
        for source, name in names.items():
            rows = sorted(index.passages(source), key=lambda row: row["start_s"])
            heard = [Word(**word) for row in rows for word in row["words"]]
            errors += time_errors(heard, [word for _, said in clips[name] for word in said])
        overlaps, total = 0, 0
        for question in questions:
            for hit in index.search(question.question, k=1):
                clip = clip_of(hit, clips[names[hit.source]])
                if clip is not None and hit.moment is not None:
                    total += 1
                    overlaps += hit.moment.start_s < clip["end"] and clip["start"] < hit.moment.end_s
    starts, ends = np.abs(np.array(errors)).T
    good = int((starts <= TOLERANCE_S).sum())
    said = sum(len(words) for recording in clips.values() for _, words in recording)
    figures = {
        "words_said": said,
        "words_heard_right": len(errors),
        "starts_within_0.3_s": good / len(errors),
        "starts_within_0.3_s_interval": list(proportion_interval(good, len(errors))),
        "ends_within_0.3_s": float((ends <= TOLERANCE_S).mean()),
        "start_bias_s": float(np.median(np.array(errors)[:, 0])),
        **{f"start_error_p{q}_s": float(np.percentile(starts, q)) for q in (50, 90, 95)},
        "moments_judged": total,
        "moments_over_their_clip": overlaps / total,
        "moments_over_their_clip_interval": list(proportion_interval(overlaps, total)),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        write_stamped(args.json, figures, stamp, set=folder.name)


if __name__ == "__main__":
    main()
