r"""What the retrieval gradient adds to a recogniser: arms with and without it, on the test sets, clean and in noise.

    python benchmarks/bridge.py --heard heard/sets --set real-mix=sets/real-mix --set mini=sets/spoken-squad-mini \
        --json benchmarks/results/bridge.json

Reads what `recipes/mini_en/gpu.sh` heard: a folder for each arm and seed (`joint-1`, `control-1`; `checkpoint` is the
model before training), in it SET.jsonl and SET-10dB.jsonl. A transcript's vector is the text encoder's, so retrieval is
measured here, with any text encoder (`--text`).
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np

from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.evaluation.benchmark_set import Question, read_questions
from modeling_clsr.evaluation.metrics import count_word_errors, whisper_words
from modeling_clsr.evaluation.ranking import hit_chances, relevance_of
from modeling_clsr.evaluation.scoring import EncodeTexts, KnownTexts, score_texts, sentence_encoder
from modeling_clsr.evaluation.significance import mean_interval, paired_test
from modeling_clsr.hub.parts import minilm_folder
from modeling_clsr.hub.stamp import make_stamp, write_stamped

BEFORE = "checkpoint"
SCORINGS = ("dense", "search")


def arms_of(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of each arm, one for each seed."""
    arms: dict[str, list[Path]] = {}
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        arms.setdefault(re.sub(r"-\d+$", "", path.name), []).append(path)
    return arms


def read_texts(file: Path, passages: list[Row]) -> list[str]:
    """Return what was heard of each passage."""
    heard = {entry["id"]: entry["text"] for entry in read_json_lines(file)}
    missing = [passage.id for passage in passages if passage.id not in heard]
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} of {len(passages)} passages, {missing[0]} first; hear them"
        )
    return [heard[passage.id] for passage in passages]


def measure(
    texts: list[str], passages: list[Row], questions: list[Question], encode: EncodeTexts
) -> dict[str, np.ndarray]:
    """Return (Q,) whether each question finds its passage first, by scoring."""
    groups = np.array([passage.context_id for passage in passages])
    relevant = relevance_of(np.array([question.context_id for question in questions]), groups)
    asked = [question.question for question in questions]
    return {name: hit_chances(score_texts(name, encode, asked, texts), relevant, 1) for name in SCORINGS}


def compare(arms: dict[str, list[Path]], name: str, folder: str, encode: EncodeTexts) -> list[dict]:
    """Return the figures of every condition of a set."""
    passages, questions = read_manifest(Path(folder) / "passages.jsonl"), read_questions(folder)
    groups = [question.context_id for question in questions]
    truths = [passage.transcript or "" for passage in passages]
    words = count_word_errors(truths, truths, normalize=whisper_words)[1]
    of_truths = measure(truths, passages, questions, encode)
    table = []
    for file in sorted(arms[BEFORE][0].glob(f"{name}*.jsonl"), key=lambda file: (len(file.name), file.name)):
        hits: dict[str, dict[str, np.ndarray]] = {}
        # Word errors of each clip, in words of a mean clip: their mean is the error rate.
        misheard: dict[str, np.ndarray] = {}
        condition = file.stem.removeprefix(name).strip("-") or "clean"
        row: dict = {"set": name, "condition": condition, "questions": len(questions), "arms": {}}
        row["recall_at_1_of_true_words"] = {scoring: float(of_truths[scoring].mean()) for scoring in SCORINGS}
        for arm, seeds in arms.items():
            if not (seeds[0] / file.name).is_file():
                continue
            heard = [read_texts(seed / file.name, passages) for seed in seeds]
            found = [measure(texts, passages, questions, encode) for texts in heard]
            # The mean over seeds is one value for each question: seeds are no further questions.
            hits[arm] = {scoring: np.mean([one[scoring] for one in found], axis=0) for scoring in SCORINGS}
            counts = [count_word_errors(truths, texts, normalize=whisper_words)[0] for texts in heard]
            errors = np.array(counts) / words.mean()
            misheard[arm] = errors.mean(axis=0)
            row["arms"][arm] = {
                "seeds": len(seeds),
                "wer": float(errors.mean()),
                "wer_of_seeds": errors.mean(axis=1).tolist(),
                **{
                    f"recall_at_1_{scoring}": {
                        "mean": float(values.mean()),
                        "interval": list(mean_interval(values, groups)),
                        "of_seeds": [float(one[scoring].mean()) for one in found],
                    }
                    for scoring, values in hits[arm].items()
                },
            }
        row["paired"] = {}
        for first, second in (("joint", "control"), ("joint", BEFORE), ("control", BEFORE)):
            if first in hits and second in hits:
                tests = {
                    scoring: paired_test(hits[first][scoring], hits[second][scoring], groups)
                    for scoring in SCORINGS
                }
                tests["wer"] = paired_test(misheard[first], misheard[second])
                row["paired"] |= {f"{first} - {second}, {name}": vars(test) for name, test in tests.items()}
        table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heard", required=True, type=Path)
    parser.add_argument("--set", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--text", help="folder of a text encoder; MiniLM's package if left out")
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    stamp, arms = make_stamp(), arms_of(args.heard)
    encode = KnownTexts(sentence_encoder(args.text or minilm_folder()))
    figures = [
        row
        for entry in args.set
        for row in compare(arms, *entry.split("=", 1), encode)  # type: ignore[call-arg]
    ]
    print(json.dumps(figures, indent=1))
    if args.json:
        write_stamped(args.json, {"rows": figures}, stamp, text=Path(args.text or minilm_folder()).name)


if __name__ == "__main__":
    main()
