"""Fit and measure `retrieval.doubt`: is a hit the answer, is there an answer at all?

    python -m modeling_clsr.evaluation.doubt --train train.jsonl --far texts.jsonl.gz --test sets/real-mix --out out

Enters: training clips with questions, benchmark sets. Leaves: `doubt.json` for the checkpoint folder, `results.json`
and `calibration.png`. Every question counts twice: with all its hits, and as one without an answer, without those hits
that answer it ("near": its subject is still there). Others are of subjects that no recording speaks of ("far"). It is
fitted to short clips and to long recordings, because neighbours in a recording are alike.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.json_lines import read_json_lines
from ..data.manifest import read_manifest
from ..hub.stamp import make_stamp, write_stamped
from ..retrieval.doubt import Doubt, features
from ..retrieval.encoder import Encoder
from ..retrieval.index import SpeechIndex
from ..retrieval.search import Hit
from .evaluator import load_set
from .joining import write_joined
from .scoring import KnownTexts
from .significance import ratio_interval

try:
    import matplotlib.figure
except ImportError:  # the "train" extra
    matplotlib = None  # type: ignore[assignment]

POOLS = (100, 200)  # clips of an index: a small one and a large one must both be judged well
LONG_POOLS = (100, 200)  # clips joined in the manifest's order, which has a subject's clips together
CLIPS_PER_RECORDING = 20
PAUSE_S = (0.3, 1.2)  # between joined clips
HITS = 5  # of each search that are fitted and judged
SEEN_HITS = 10  # among which leads are counted
LONG_S = 60.0  # a set with recordings beyond this is one of long recordings
RIGHT_OVERLAP = 0.5  # of the hit or of the place that answers, whichever is shorter
WRONG_ANSWERS = 0.1  # share of the questions on other subjects that the threshold lets pass at most
# The last two without an answer: only its passages are missing, or its subject.
KINDS = ("answerable", "near", "far")
BINS = 10
THRESHOLDS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Posed:
    """A question and the place that answers it.

    Attributes:
        question: its text.
        source: absolute path of the recording.
        start_s: of the place, in seconds.
        end_s: likewise.
    """

    question: str
    source: str
    start_s: float = 0.0
    end_s: float = math.inf

    def is_answered_by(self, hit: Hit) -> bool:
        """Tell whether a hit is of this place."""
        both = min(hit.end_s, self.end_s) - max(hit.start_s, self.start_s)
        shorter = min(hit.end_s - hit.start_s, self.end_s - self.start_s)
        return hit.source == self.source and both >= RIGHT_OVERLAP * shorter


@dataclass(frozen=True)
class Pool:
    """Recordings of one index, and what is asked of them."""

    name: str
    recordings: list[str]
    questions: list[Posed]


@dataclass(frozen=True)
class Asked:
    """What was found for one question.

    Attributes:
        rows: (H, F) features of the first hits.
        right: (H,) whether each answers.
        kind: one of `KINDS`.
    """

    rows: np.ndarray
    right: np.ndarray
    kind: str


class RememberingEncoder:
    """An encoder that embeds a text once: the same moments are compared with question after question."""

    def __init__(self, encoder: Any):
        self._encoder = encoder
        self._texts = KnownTexts(partial(encoder.encode_texts, truncation=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_texts(self, texts: list[str], truncation: bool = False) -> np.ndarray:
        """Embed texts, (N, D)."""
        return self._texts(texts)


def ask_all(
    index: SpeechIndex, questions: Sequence[Posed], others: Sequence[Posed], title: str
) -> list[Asked]:
    """Ask every question, and count it with and without the hits that answer it.

    Args:
        index: of the recordings.
        questions: that they answer.
        others: that they do not answer.
        title: of the progress bar.
    """
    found, size = [], len(index)

    def count(posed: Posed, hits: list[Hit], kind: str) -> None:
        right = np.array([posed.is_answered_by(hit) for hit in hits[:HITS]], dtype=bool)
        found.append(Asked(features(hits, size)[:HITS], right, kind))

    known = [(posed, True) for posed in questions] + [(posed, False) for posed in others]
    for posed, is_answered in tqdm(known, desc=title, unit="question"):
        hits = index.search(posed.question, k=SEEN_HITS)
        if is_answered:
            count(posed, hits, "answerable")
            count(posed, [hit for hit in hits if not posed.is_answered_by(hit)], "near")
        else:
            count(posed, hits, "far")
    return found


def fit(asked: Sequence[Asked], fitted_on: str) -> Doubt:
    """Fit a logistic regression by Newton's method, and the threshold.

    Args:
        asked: training questions.
        fitted_on: what they are, for people.

    Raises:
        ValueError: no hit is right, or none is wrong.
    """
    rows = np.concatenate([search.rows for search in asked])
    right = np.concatenate([search.right for search in asked]).astype(float)
    if not 0 < right.sum() < len(right):
        raise ValueError(f"{right.sum():.0f} of {len(right)} hits are right but both kinds are needed")
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    inputs = np.column_stack([(rows - mean) / spread, np.ones(len(rows))])
    weights = np.zeros(inputs.shape[1])
    ridge = 1e-3 * np.eye(len(weights))
    for _ in range(25):
        chances = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chances - right) + ridge @ weights
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + ridge
        weights -= np.linalg.solve(curvature, slope)
    raw = weights[:-1] / spread
    doubt = Doubt(tuple(raw.tolist()), float(weights[-1] - raw @ mean), 0.5, fitted_on)
    return replace(doubt, threshold=best_threshold(doubt, asked))


def best_threshold(doubt: Doubt, asked: Sequence[Asked]) -> float:
    """Return the threshold that best divides questions with an answer from those without.

    Where the share of the answerable that get an answer exceeds that of the unanswerable most (Youden 1950), as long as
    at most `WRONG_ANSWERS` of those on other subjects get one.
    """
    best = np.array([best_chance(doubt, search) for search in asked])
    kinds = np.array([search.kind for search in asked])
    allowed = float(np.quantile(best[kinds == "far"], 1 - WRONG_ANSWERS)) if "far" in kinds else 0.0
    answerable = best[kinds == "answerable"]
    without = best[kinds != "answerable"]
    candidates = np.unique(np.append(best[best >= allowed], allowed))
    gains = [(answerable >= value).mean() - (without >= value).mean() for value in candidates]
    return float(candidates[int(np.argmax(gains))])


def best_chance(doubt: Doubt, search: Asked) -> float:
    """Return the probability of the likeliest hit."""
    return float(doubt.chances(search.rows).max(initial=0.0))


def calibration_error(chances: np.ndarray, right: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Return the expected calibration error, and its bins, of equal numbers of hits.

    Source: Naeini et al. 2015; bins of equal numbers as in Nguyen and O'Connor 2015.
    """
    order = np.argsort(chances, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    table = [
        {
            "predicted": float(chances[part].mean()),
            "observed": float(right[part].mean()),
            "hits": len(part),
        }
        for part in bins
    ]
    error = sum(row["hits"] * abs(row["predicted"] - row["observed"]) for row in table) / len(chances)
    return error, table


def measure(doubt: Doubt, asked: Sequence[Asked]) -> dict[str, Any]:
    """Measure a calibration on questions that it was not fitted to."""
    chances = [doubt.chances(search.rows) for search in asked]
    error, bins = calibration_error(
        np.concatenate(chances), np.concatenate([search.right for search in asked])
    )
    best = np.array([values.max(initial=0.0) for values in chances])
    kinds = np.array([search.kind for search in asked])
    answerable = kinds == "answerable"
    first_right = np.array([bool(search.right[:1].any()) for search in asked])
    answered = (best >= doubt.threshold).astype(float)
    figures: dict[str, Any] = {
        "questions": int(answerable.sum()),
        "expected_calibration_error": error,
        "expected_calibration_error_interval": list(_error_interval(chances, asked)),
        "threshold": doubt.threshold,
    }
    for name, values in (
        ("answered_of_answerable", answered[answerable]),
        ("answered_of_unanswerable", answered[~answerable]),
        ("answered_of_near", answered[kinds == "near"]),
        ("answered_of_far", answered[kinds == "far"]),
        ("first_hit_right_of_answered", first_right[answerable & (answered > 0)].astype(float)),
    ):
        interval = ratio_interval(values, np.ones(len(values))) if len(values) else (0.0, 0.0)
        figures |= {name: float(values.mean()) if len(values) else 0.0, f"{name}_interval": list(interval)}
    figures["bins"] = bins
    figures["curve"] = [
        {
            "threshold": float(threshold),
            "answered_of_answerable": float((best[answerable] >= threshold).mean()),
            "answered_of_unanswerable": float((best[~answerable] >= threshold).mean()),
        }
        for threshold in THRESHOLDS
    ]
    return figures


def _error_interval(
    chances: list[np.ndarray], asked: Sequence[Asked], draws: int = 500
) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the calibration error, questions drawn whole."""
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(draws):
        chosen = generator.integers(0, len(asked), len(asked))
        right = np.concatenate([asked[place].right for place in chosen])
        errors.append(calibration_error(np.concatenate([chances[place] for place in chosen]), right)[0])
    low, high = np.quantile(errors, [0.025, 0.975])
    return float(low), float(high)


def draw_calibration(figures: dict[str, Any], file: Path) -> None:
    """Draw predicted against observed shares, and what each threshold would let pass; nothing without matplotlib."""
    if matplotlib is None:
        return
    figure = matplotlib.figure.Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    for name, row in figures.items():
        error = row["expected_calibration_error"]
        predicted, observed = ([entry[key] for entry in row["bins"]] for key in ("predicted", "observed"))
        left.plot(predicted, observed, marker="o", label=f"{name}, error {error:.3f}")
        passed, kept = (
            [100 * entry[f"answered_of_{kind}"] for entry in row["curve"]]
            for kind in ("unanswerable", "answerable")
        )
        (drawn,) = right.plot(passed, kept, label=name)
        right.plot(
            100 * row["answered_of_unanswerable"],
            100 * row["answered_of_answerable"],
            marker="o",
            color=drawn.get_color(),
        )
    left.set(xlabel="probability that a hit answers", ylabel="share of the hits that do")
    right.set(
        xlabel="unanswerable questions that get an answer (%)",
        ylabel="answerable questions that get one (%)",
        xlim=(-2, 60),
    )
    right.axvline(100 * WRONG_ANSWERS, color="0.7", linestyle="--")
    right.set_title("dots: the default threshold", fontsize=9)
    left.legend()
    right.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def open_index(folder: Path, encoder: Any, paths: Iterable[str | Path]) -> SpeechIndex:
    """Index recordings, or go on with an index begun before."""
    index = SpeechIndex.open_or_create(folder, encoder)
    index.add(paths, progress=True)
    return index


def training_pools(manifest: Path, out: Path, seed: int = 0) -> Iterator[Pool]:
    """Draw pools of training clips, a question for each clip; no clip is in two pools.

    Args:
        manifest: of clips with questions.
        out: gets the recordings that clips are joined to.
        seed: of the draw.

    Yields:
        The pools of `LONG_POOLS`, then those of `POOLS`.
    """
    by_clip = {
        str(Path(row.audio).absolute()): str(row.question) for row in read_manifest(manifest) if row.question
    }
    clips = list(by_clip)
    needed = sum(LONG_POOLS) + sum(POOLS)
    if len(clips) < needed:
        raise ValueError(f"{manifest} has {len(clips)} clips with questions but {needed} are needed")
    generator = np.random.default_rng(seed)
    ordered = iter(clips)
    for size in LONG_POOLS:
        recordings, questions = [], []
        chosen = list(itertools.islice(ordered, size))
        for number, first in enumerate(range(0, size, CLIPS_PER_RECORDING)):
            path = out / f"long-{size}" / f"{number:02d}.opus"
            joined = chosen[first : first + CLIPS_PER_RECORDING]
            spans = write_joined(path, joined, generator.uniform(*PAUSE_S, len(joined)).tolist())
            recordings.append(str(path.absolute()))
            questions += [
                Posed(by_clip[clip], recordings[-1], *span) for clip, span in zip(joined, spans, strict=True)
            ]
        yield Pool(f"long-{size}", recordings, questions)
    drawn = (clips[place] for place in sum(LONG_POOLS) + generator.permutation(len(clips) - sum(LONG_POOLS)))
    for size in POOLS:
        chosen = list(itertools.islice(drawn, size))
        yield Pool(f"pool-{size}", chosen, [Posed(by_clip[clip], clip) for clip in chosen])


def test_pool(folder: Path) -> Pool:
    """Read a built set. In long recordings the place that says the answer answers, in clips the whole clip."""
    passages, questions = load_set(folder)
    places = {str(row.context_id): str(Path(row.audio).absolute()) for row in passages}
    is_long = max(row.duration or 0.0 for row in passages) > LONG_S
    posed = [
        Posed(question.question, places[question.context_id], *(question.spans[0] if is_long else ()))
        for question in questions
        if question.spans or not is_long
    ]
    return Pool(folder.name, list(places.values()), posed)


def far_questions(file: Path, count: int) -> list[Posed]:
    """Return the last questions of a file of objects with `question`: far from the first, which are spoken."""
    questions = [row["question"] for row in read_json_lines(file)]
    return [Posed(question, "") for question in questions[-count:]]


def ask_pool(pool: Pool, others: Sequence[Posed], encoder: Any, out: Path) -> list[Asked]:
    """Index a pool, or go on with its index in `out`, and ask."""
    index = open_index(out / f"{pool.name}.index", encoder, pool.recordings)
    return ask_all(index, pool.questions, others, pool.name)


def main() -> None:
    """Parse, fit, measure."""
    parser = argparse.ArgumentParser(description="Calibrate how likely a hit answers.")
    add = parser.add_argument
    add("--train", required=True, type=Path, help="manifest of clips with questions, none of a test set")
    add("--far", required=True, type=Path, help="questions on other subjects, .jsonl or .jsonl.gz")
    add("--test", action="append", default=[], help="folder of a built set; may be repeated")
    add("--checkpoint", default="default", help="folder; 'default' for clsr-base-en")
    add("--out", required=True, type=Path, help="folder for doubt.json, results.json, calibration.png")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"doubt: {error}")


def run(args: argparse.Namespace) -> None:
    """Fit on the training pools, measure on the sets, write."""
    stamp = make_stamp()
    encoder = RememberingEncoder(Encoder.from_pretrained(args.checkpoint))
    args.out.mkdir(parents=True, exist_ok=True)
    asked: list[Asked] = []
    far = iter(far_questions(args.far, sum(POOLS) + sum(LONG_POOLS)))
    for pool in training_pools(args.train, args.out):
        asked += ask_pool(pool, list(itertools.islice(far, len(pool.questions))), encoder, args.out)
    pools = f"pools of {', '.join(map(str, POOLS))} clips, and {', '.join(map(str, LONG_POOLS))} joined"
    doubt = fit(asked, f"{sum(POOLS) + sum(LONG_POOLS)} questions, {pools}")
    doubt.save(args.out)
    tests = [test_pool(Path(folder)) for folder in args.test]
    figures = {}
    for number, pool in enumerate(tests):
        others = tests[number - 1].questions if len(tests) > 1 else []  # of another set, on other subjects
        figures[pool.name] = measure(doubt, ask_pool(pool, others, encoder, args.out))
    write_stamped(
        args.out / "results.json", figures, stamp, checkpoint=args.checkpoint, train=str(args.train)
    )
    if figures:
        draw_calibration(figures, args.out / "calibration.png")
    for name, row in figures.items():
        sys.stdout.write(
            f"{name}: calibration error {row['expected_calibration_error']:.3f}; at {doubt.threshold:.2f}, "
            f"{row['answered_of_answerable']:.1%} of the answerable and "
            f"{row['answered_of_unanswerable']:.1%} of the unanswerable questions get an answer\n"
        )


if __name__ == "__main__":
    main()
