"""How search grows: latency, recall and size of a real table from 10,000 to 1 million passages.

    python benchmarks/search.py --json benchmarks/results/search.json --plot docs/search.png

The vectors are made: sums of two vectors of real sentences and noise, so that they lie as densely as those
of speech. Transcripts are two real sentences each, so the index of words has a real vocabulary. Questions are
vectors near stored ones. Three things are timed, in a process that does nothing else: finding the nearest
rows (what benchmarks of vector search call a search), finding the rows that say some words, and a whole
search, which does both, reads the text and the timed words of 20 passages, and finds their moments; the
question's vector is given, and the indices are in memory, as `clsr serve` has them. Needs the extra parts,
and some 20 GB of disk.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_clsr import Word
from modeling_clsr.data.passages import CutSettings
from modeling_clsr.data.synthesis import read_texts
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval.index import SpeechIndex
from modeling_clsr.retrieval.moments import split_sentences
from modeling_clsr.retrieval.reader import TableReader, wait
from modeling_clsr.retrieval.schema import IndexMetadata, create_table, pack_windows, row_id
from modeling_clsr.retrieval.search import POOL, Query, search_table

SIZES = (10_000, 100_000, 1_000_000)
PASSAGE_S = 15.0  # of audio in one passage, for bytes per hour
WINDOWS = 3  # two sentences, which a passage of this length has, and both together
BLOCK = 50_000
NOISE = 0.35
K = 10
QUESTION_WORDS = 8
WARM_UP = 10  # questions
ROUNDING = 1e-5  # of a cosine
TIMED = {"nearest": "nearest rows", "worded": "rows by words", "search": "whole search"}


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


def block_of_rows(
    vectors: np.ndarray, texts: list[str], first: int, schema: pa.Schema, random: np.random.Generator
) -> pa.Table:
    """Make rows as indexing does, 20 passages to a recording; nothing is alike that differs in real rows."""
    count = len(vectors)
    sources = [f"/talks/{(first + n) // 20:07d}.opus" for n in range(count)]
    starts = PASSAGE_S * ((first + np.arange(count)) % 20)
    transcripts = [" ".join(pair) for pair in random.choice(texts, (count, 2))]
    columns = {
        "id": [row_id(source, start) for source, start in zip(sources, starts.tolist(), strict=True)],
        "source": sources,
        "path": sources,
        "fingerprint": [f"{source}-made" for source in sources],
        "recorded": [
            datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=(first + n) // 20) for n in range(count)
        ],
        "start_s": starts,
        "end_s": starts + PASSAGE_S,
        "transcript": transcripts,
        "probability": random.random(count, dtype=np.float32),
        "words": made_words(transcripts, starts, random).cast(schema.field("words").type),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "window_vectors": [pack_windows(vectors[np.arange(n, n + WINDOWS) % count]) for n in range(count)],
    }
    return pa.table(columns, schema=schema)


def is_sentence(text: str) -> bool:
    """Tell whether a text is one sentence to `moments`, also after another: two of them have `WINDOWS`."""
    words = [Word(word, 0.0, 0.0, 1.0) for word in text.split()]
    return list(split_sentences(words * 2)) == [(0, len(words)), (len(words), 2 * len(words))]


def made_words(transcripts: list[str], starts: np.ndarray, random: np.random.Generator) -> pa.ListArray:
    """Time the words of transcripts that begin at `starts`, in seconds."""
    words = [text.split() for text in transcripts]
    counts = np.array([len(each) for each in words])
    ends = np.cumsum(counts)
    place = np.arange(ends[-1]) - np.repeat(ends - counts, counts)  # of a word in its passage
    begin = np.repeat(starts, counts) + 0.4 * place + 0.1 * random.random(len(place))
    parts = {
        "text": pa.array([word for each in words for word in each]),
        "start": pa.array(begin.round(3)),
        "end": pa.array((begin + 0.2 + 0.1 * random.random(len(place))).round(3)),
        "probability": pa.array(random.random(len(place), dtype=np.float32)),
    }
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(list(parts.values()), list(parts)))


def tenth_cosines(vectors: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Compare questions with all vectors; return the cosine of the tenth nearest of each, (Q,)."""
    best = np.full((len(questions), 0), 0.0, np.float32)
    for first in range(0, len(vectors), BLOCK):
        best = np.concatenate([best, questions @ vectors[first : first + BLOCK].T], axis=1)
        best = np.partition(best, -K, axis=1)[:, -K:]
    return best.min(axis=1)


def maintain(uri: str) -> dict:
    """Bring the table's indices up to date; return what that takes."""
    index = SpeechIndex.open(uri)
    start = time.perf_counter()
    index.maintain()
    return {"indexing_s": time.perf_counter() - start, "indexing_memory_gb": peak_memory_gb()}


def measure(uri: str, questions: np.ndarray, texts: list[str], tenths: np.ndarray) -> dict:
    """Return latencies, recall@10 (of the rows found, those as near as the exact tenth), and memory."""
    table = TableReader(uri)
    start = time.perf_counter()
    wait(table.prewarm())
    prewarming_s = time.perf_counter() - start
    asked = [Query(text, vector) for text, vector in zip(texts, questions, strict=True)]
    nearest, times = timed(lambda query: wait(table.nearest(query.vector, POOL)), asked)
    figures = {"nearest": times}
    figures["worded"] = timed(lambda query: wait(table.worded(query.text, POOL)), asked)[1]
    figures["search"] = timed(lambda query: search_table(table, query), asked)[1]
    right = [
        sum(cosine >= tenth - ROUNDING for cosine in list(found.values())[:K]) / K
        for found, tenth in zip(nearest, tenths, strict=True)
    ]
    return {
        "recall_at_10": float(np.mean(right)),
        **{f"{name}_ms_p{q}": float(np.percentile(figures[name], q)) for name in TIMED for q in (50, 95)},
        "prewarming_s": prewarming_s,
        "search_memory_gb": peak_memory_gb(),
    }


def timed(run: Callable[[Query], Any], asked: list[Query]) -> tuple[list[Any], list[float]]:
    """Return what comes of each question, and the milliseconds; what the first ones load is not counted."""
    for query in asked[-WARM_UP:]:
        run(query)
    found, times = [], []
    for query in asked:
        start = time.perf_counter()
        found.append(run(query))
        times.append(1000 * (time.perf_counter() - start))
    return found, times


def peak_memory_gb() -> float:
    """Return the peak of this process; `getrusage` would count that of the process which started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def in_own_process(work: Callable[..., dict], *args: Any) -> dict:
    """Run a function in a new process, which holds none of the made vectors."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def draw_growth(figures: list[dict], file: str) -> None:
    """Plot latency and bytes against the number of passages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    latency, size = figure.subplots(1, 2)
    counts = [row["passages"] for row in figures]
    for name, title in TIMED.items():
        latency.loglog(counts, [row[f"{name}_ms_p95"] for row in figures], marker="o", label=f"{title}, p95")
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
    parser.add_argument("--folder", help="for the table; that of temporary files if not given")
    parser.add_argument("--json", help="write the stamped result")
    parser.add_argument("--plot", help="write a PNG of the growth")
    args = parser.parse_args()
    stamp = make_stamp()
    texts = [utterance.text for utterance in read_texts(args.texts)]
    seeds = seed_vectors(texts)
    texts = [text for text in texts if is_sentence(text)]
    random = np.random.default_rng(0)
    dim = seeds.shape[1]
    metadata = IndexMetadata("made", "0" * 32, dim, 16000, CutSettings())
    sizes = [int(size) for size in args.sizes.split(",")]
    vectors = np.empty((max(sizes), dim), np.float32)
    done = 0
    figures = []
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        uri = f"{temporary}/index"
        table = create_table(uri, metadata)
        for size in sizes:
            while done < size:
                block = made_vectors(seeds, min(BLOCK, size - done), random)
                table.add(block_of_rows(block, texts, done, table.schema, random))
                vectors[done : done + len(block)] = block
                done += len(block)
            indexing = in_own_process(maintain, uri)
            table.optimize(cleanup_older_than=timedelta(0))  # what is replaced goes after an hour anyway
            stored = sum(file.stat().st_size for file in Path(uri).rglob("*") if file.is_file())
            near = vectors[random.integers(0, size, args.questions)]
            noise = random.standard_normal(near.shape, dtype=np.float32) * 0.5 / np.sqrt(dim)
            questions = (near + noise) / np.linalg.norm(near + noise, axis=1, keepdims=True)
            spoken = random.choice(texts, args.questions)
            wording = [" ".join(text.split()[:QUESTION_WORDS]) for text in spoken]
            tenths = tenth_cosines(vectors[:size], questions)
            figures.append(
                {"passages": size, "bytes": stored, "bytes_per_hour": stored / (size * PASSAGE_S / 3600)}
                | indexing
                | in_own_process(measure, uri, questions, wording, tenths)
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
