r"""What letters add to a search of what was heard: R@1 by their weight, on speech that is heard well and badly.

    python recipes/mini_en/hear.py accent=speech/accent/manifest.jsonl --out speech/heard
    python benchmarks/letters.py accent=speech/accent/manifest.jsonl real-mix=sets/real-mix --heard speech/heard \
        --json benchmarks/results/letters.json

Reads clips with questions (a manifest, or the folder of a benchmark set) and what was heard of them; those that nobody
heard are no part of the pool. The weight in `retrieval/search.py` was chosen by such figures: docs/search.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.manifest import Row, distinct_clips, read_manifest
from modeling_clsr.evaluation.benchmark_set import Question
from modeling_clsr.evaluation.evaluator import load_set
from modeling_clsr.evaluation.metrics import whisper_words, word_error_rate
from modeling_clsr.evaluation.ranking import hit_chances, relevance_of
from modeling_clsr.evaluation.scoring import (
    KnownTexts,
    bm25_scores,
    letters_of_found,
    moment_scores,
    search_scores,
    sentence_encoder,
)
from modeling_clsr.evaluation.significance import mean_interval, paired_test
from modeling_clsr.hub.parts import minilm_folder
from modeling_clsr.hub.stamp import make_stamp, write_stamped

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4)


def read_pool(place: Path, heard: dict[str, str]) -> tuple[list[Row], list[Question]]:
    """Return the clips that were heard, each once, and the questions about them.

    Args:
        place: manifest of clips with questions, or folder of a benchmark set.
        heard: text by the id of a clip's first row.
    """
    if place.is_dir():
        rows, questions = load_set(place)
    else:
        rows = read_manifest(place)
        questions = [Question(row.id, row.question, str(row.context_id)) for row in rows if row.question]
    pool = [row for row in distinct_clips(rows) if row.id in heard]
    known = {row.context_id for row in pool}
    return pool, [question for question in questions if question.context_id in known]


def measure(pool: list[Row], asked: list[Question], heard: dict[str, str], encode: KnownTexts) -> dict:
    """Return R@1 by the weight of the letters, with tests against none."""
    questions, texts = [question.question for question in asked], [heard[row.id] for row in pool]
    groups = [question.context_id for question in asked]
    relevant = relevance_of(np.array(groups), np.array([row.context_id for row in pool]))
    vectors = encode(questions)
    dense = vectors @ encode(texts).T
    joint, words = moment_scores(encode, vectors, texts, dense), bm25_scores(questions, texts)
    letters = letters_of_found(questions, texts, dense, words)
    hits = {
        weight: hit_chances(search_scores(joint, words, letters, weight), relevant, 1) for weight in WEIGHTS
    }
    errors, interval = word_error_rate([str(row.transcript) for row in pool], texts, normalize=whisper_words)
    return {
        "questions": len(questions),
        "passages": len(pool),
        "wer": errors,
        "wer_interval": list(interval),
        "weights": [
            {
                "weight": weight,
                "recall_at_1": float(found.mean()),
                "recall_at_1_interval": list(mean_interval(found, groups)),
                "against_none": vars(paired_test(found, hits[0.0], groups)),
            }
            for weight, found in hits.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", metavar="NAME=PLACE", help="manifest, or folder of a set")
    parser.add_argument("--heard", required=True, type=Path, help="folder of hear.py, with NAME.jsonl")
    parser.add_argument("--json", help="write the stamped result")
    args = parser.parse_args()
    stamp, encode = make_stamp(), KnownTexts(sentence_encoder(minilm_folder()))
    figures = {}
    for entry in args.places:
        name, place = entry.split("=", 1)
        heard = {clip["id"]: clip["text"] for clip in read_json_lines(args.heard / f"{name}.jsonl")}
        figures[name] = measure(*read_pool(Path(place), heard), heard, encode)
    print(json.dumps(figures, indent=1))
    if args.json:
        write_stamped(args.json, figures, stamp, text=minilm_folder().name)


if __name__ == "__main__":
    main()
