"""How search grows: latency, recall and size of a real table from 10,000 to 1 million passages.

    python benchmarks/search.py --json benchmarks/results/search.json --plot docs/search.png

The vectors are made: sums of two vectors of real sentences and noise, so that they lie as densely as those of speech.
Transcripts are real sentences, so the index of words has a real vocabulary. Questions are vectors near stored ones.
Needs the extra parts, and some 6 GB of disk.
"""

import argparse
import json
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from modeling_clsr.data.passages import CutSettings
from modeling_clsr.data.synthesis import read_texts
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval.index import SpeechIndex
from modeling_clsr.retrieval.schema import IndexMetadata, create_table, pack_windows, row_id
from modeling_clsr.retrieval.search import POOL

SIZES = (10_000, 100_000, 1_000_000)
PASSAGE_S = 15.0  # of audio in one passage, for bytes per hour
WINDOWS = 5  # three sentences, and each two neighbours: what a passage of this length has
BLOCK = 50_000
SEED_TEXTS = 8_000
NOISE = 0.35
K = 10


def seed_vectors(texts: list[str]) -> np.ndarray:
    """Embed sentences with the text encoder of the default checkpoint."""
    from modeling_clsr.evaluation.scoring import sentence_encoder
    from modeling_clsr.hub.parts import minilm_folder

    return sentence_encoder(minilm_folder())(texts).astype(np.float32)


def made_vectors(seeds: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Mix two seeds and noise: (count, D) unit vectors."""
    first, second = random.integers(0, len(seeds), (2, count))
    share = random.random((count, 1), dtype=np.float32)
    mixed = share * seeds[first] + (1 - share) * seeds[second]
    mixed += NOISE / np.sqrt(seeds.shape[1]) * random.standard_normal(mixed.shape, dtype=np.float32)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def block_of_rows(vectors: np.ndarray, texts: list[str], first: int, schema: pa.Schema) -> pa.Table:
    """Make rows as indexing does, 20 passages to a recording."""
    words = [
        [
            {"text": word, "start": float(n), "end": n + 0.9, "probability": 0.9}
            for n, word in enumerate(text.split())
        ]
        for text in texts
    ]
    count = len(vectors)
    sources = [f"/talks/{(first + n) // 20:07d}.opus" for n in range(count)]
    starts = [PASSAGE_S * ((first + n) % 20) for n in range(count)]
    chosen = [(first + n) % len(texts) for n in range(count)]
    columns = {
        "id": [row_id(source, start) for source, start in zip(sources, starts, strict=True)],
        "source": sources,
        "path": sources,
        "fingerprint": ["made"] * count,
        "recorded": [datetime(2026, 1, 1, tzinfo=UTC)] * count,
        "start_s": starts,
        "end_s": [start + PASSAGE_S for start in starts],
        "transcript": [texts[place] for place in chosen],
        "probability": np.full(count, 0.9, np.float32),
        "words": [words[place] for place in chosen],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "window_vectors": [pack_windows(vectors[np.arange(n, n + WINDOWS) % count]) for n in range(count)],
    }
    return pa.table(columns, schema=schema)


def measure(index: SpeechIndex, vectors: np.ndarray, questions: np.ndarray, texts: list[str]) -> dict:
    """Return latency and recall@10 of the vectors' search, and the latency of the words' search."""
    exact = np.argsort(-(questions @ vectors.T), axis=1)[:, :K]
    times, kept = [], []
    for question, right in zip(questions, exact, strict=True):
        start = time.perf_counter()
        found = index.nearest_rows(question, POOL)
        times.append(1000 * (time.perf_counter() - start))
        ids = {(row["source"], row["start_s"]) for row in found[:K]}
        expected = {(f"/talks/{place // 20:07d}.opus", PASSAGE_S * (place % 20)) for place in right.tolist()}
        kept.append(len(ids & expected) / K)
    word_times = []
    for text in texts[: len(questions)]:
        start = time.perf_counter()
        index.worded_rows(" ".join(text.split()[:8]), POOL)
        word_times.append(1000 * (time.perf_counter() - start))
    return {
        "recall_at_10": float(np.mean(kept)),
        **{f"vector_ms_p{q}": float(np.percentile(times, q)) for q in (50, 95)},
        **{f"words_ms_p{q}": float(np.percentile(word_times, q)) for q in (50, 95)},
    }


def draw_growth(figures: list[dict], file: str) -> None:
    """Plot latency and bytes against the number of passages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    latency, size = figure.subplots(1, 2)
    counts = [row["passages"] for row in figures]
    for name, title in (("vector_ms_p95", "vectors, p95"), ("words_ms_p95", "words, p95")):
        latency.loglog(counts, [row[name] for row in figures], marker="o", label=title)
    latency.set_xlabel("passages")
    latency.set_ylabel("ms")
    latency.legend()
    size.loglog(counts, [row["bytes"] / 1e6 for row in figures], marker="o")
    size.set_xlabel("passages")
    size.set_ylabel("MB on disk")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", default="../shared/data/qa/factbook_sentences.txt.gz")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--json", help="write the stamped result")
    parser.add_argument("--plot", help="write a PNG of the growth")
    args = parser.parse_args()
    stamp = make_stamp()
    texts = [utterance.text for utterance in read_texts(args.texts)][:SEED_TEXTS]
    seeds = seed_vectors(texts)
    random = np.random.default_rng(0)
    dim = seeds.shape[1]
    metadata = IndexMetadata("made", "0" * 32, dim, 16000, CutSettings())
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        table = create_table(f"{temporary}/index", metadata)
        vectors = np.zeros((0, dim), np.float32)
        for size in map(int, args.sizes.split(",")):
            while len(vectors) < size:
                block = made_vectors(seeds, min(BLOCK, size - len(vectors)), random)
                table.add(block_of_rows(block, texts, len(vectors), table.schema))
                vectors = np.concatenate([vectors, block])
            index = SpeechIndex.open(f"{temporary}/index")
            start = time.perf_counter()
            index.maintain()
            built = time.perf_counter() - start
            near = vectors[random.integers(0, size, args.questions)]
            noise = random.standard_normal(near.shape, dtype=np.float32) * 0.5 / np.sqrt(dim)
            questions = (near + noise) / np.linalg.norm(near + noise, axis=1, keepdims=True)
            index.nearest_rows(questions[0], POOL)  # opens the index
            found = measure(index, vectors, questions, texts)
            stored = sum(file.stat().st_size for file in Path(temporary).rglob("*") if file.is_file())
            figures.append(
                {"passages": size, "indexing_s": built, "bytes": stored}
                | {"bytes_per_hour": stored / (size * PASSAGE_S / 3600)}
                | found
                | {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
            )
            print(json.dumps(figures[-1]), flush=True)
    if args.json:
        write_stamped(
            args.json, {"sizes": figures}, stamp, texts=Path(args.texts).name, questions=args.questions
        )
    if args.plot:
        draw_growth(figures, args.plot)


if __name__ == "__main__":
    main()
