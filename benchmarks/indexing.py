"""Speed, memory and recall of indexing: CLSR beside faster-whisper base int8 and sentence-transformers MiniLM.

    python benchmarks/indexing.py --json benchmarks/results/indexing.json

All systems get the same passages of the example library, cut by silero-vad, each in a process of its own with the same
number of threads, one process at a time: every round goes through all systems, in an order that moves on, so that what
else the machine does meets all alike. CLSR in float32 and bfloat16, in batches as `clsr index` makes them; the cascade
passage by passage, with its own batching, and so with two workers beside each other, as `clsr index` has. Speed: the
median of the rounds; against each cascade: the median, least and most of the rounds' ratios. Peak memory is the
process's largest resident set. R@1: share of questions whose best passage is the right one, by the passage vector
alone; for CLSR also as `clsr search` ranks, by passage and moment. The 95 % intervals are Wilson's.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

RATE = 16000
LIBRARY = Path(__file__).parents[1] / "examples" / "library"
CLSR_BATCH = 16  # that of `clsr index`
CASCADE_BATCH = 8  # its own
CASCADES = ("cascade", "cascade-batched", "cascade-batched-two")
SYSTEMS = ("clsr", "clsr-bfloat16", *CASCADES)


@dataclass
class System:
    """One way to index and search.

    Attributes:
        name: of the checkpoint or of the parts.
        index: takes the passages' waveforms and remembers what was made of them.
        scores: takes questions; returns kinds of scores, (Q, N) each.
    """

    name: str
    index: Callable[[list[np.ndarray]], None]
    scores: Callable[[list[str]], dict[str, np.ndarray]]


def cut(folder: Path) -> tuple[list[np.ndarray], list[dict]]:
    from modeling_clsr.data.passages import stream_passages

    waves, rows = [], []
    for file in sorted(folder.glob("*.opus")):
        for passage, wave in stream_passages(file):
            waves.append(wave)
            rows.append({"file": file.name, "start": passage.start_s, "end": passage.end_s})
    return waves, rows


def clsr(form: str | None) -> System:
    from modeling_clsr.data.sampler import length_batches
    from modeling_clsr.hub.build import default_checkpoint
    from modeling_clsr.retrieval.encoder import Encoder
    from modeling_clsr.retrieval.lanes import in_lanes, lane_batch_size
    from modeling_clsr.retrieval.moments import embed_windows, find_moments
    from modeling_clsr.retrieval.search import joint_score

    encoder = Encoder.from_pretrained(default_checkpoint(), "cpu", form)
    made: list = []

    def index(waves: list[np.ndarray]) -> None:
        batches = length_batches([len(wave) for wave in waves], lane_batch_size(len(waves), CLSR_BATCH))
        found = in_lanes(encoder.encode_passages, ([waves[row] for row in batch] for batch in batches), "cpu")
        rows = dict(zip(itertools.chain(*batches), itertools.chain(*found), strict=True))
        made[:] = [rows[row] for row in range(len(waves))]

    def scores(questions: list[str]) -> dict[str, np.ndarray]:
        transcripts = [transcript.text for transcript, _ in made]
        words = [transcript.words for transcript, _ in made]
        asked = encoder.encode_texts(questions)
        alone = asked @ np.array([vector for _, vector in made]).T
        windows = embed_windows(encoder, transcripts, words)
        joint = np.array(
            [
                [
                    joint_score(cosine, moment and moment.score)
                    for cosine, moment in zip(
                        row, find_moments(vector, transcripts, words, windows), strict=True
                    )
                ]
                for row, vector in zip(alone, asked, strict=True)
            ]
        )
        return {"recall_at_1": alone, "recall_at_1_with_moment": joint}

    return System(encoder.fingerprint, index, scores)


def cascade(batched: bool, workers: int) -> System:
    import torch
    from faster_whisper import BatchedInferencePipeline, WhisperModel
    from sentence_transformers import SentenceTransformer

    from modeling_clsr.hub.parts import MINILM_ID, WHISPER_ID, minilm_folder, write_whisper_ct2

    with tempfile.TemporaryDirectory() as folder:
        whisper = WhisperModel(
            str(write_whisper_ct2(Path(folder) / "whisper")),
            device="cpu",
            compute_type="int8",
            cpu_threads=max(torch.get_num_threads() // workers, 1),
            num_workers=workers,
        )
    encoder = SentenceTransformer(str(minilm_folder()), device="cpu")
    options = {"language": "en", "beam_size": 1, "without_timestamps": True}
    vectors = np.zeros((0, 0), np.float32)

    def hear_together(waves: list[np.ndarray]) -> list[str]:
        # Its own batching works inside one recording: the passages stand one behind the other, cut where we cut.
        texts = [""] * len(waves)
        bounds = np.cumsum([0, *map(len, waves)])
        clips = [{"start": a / RATE, "end": b / RATE} for a, b in itertools.pairwise(bounds)]
        segments, _ = BatchedInferencePipeline(whisper).transcribe(
            np.concatenate(waves),
            batch_size=CASCADE_BATCH,
            clip_timestamps=clips,
            vad_filter=False,
            **options,
        )
        for segment in segments:
            row = int(np.searchsorted(bounds, (segment.start + 0.01) * RATE, side="right")) - 1
            texts[min(max(row, 0), len(waves) - 1)] += segment.text
        return texts

    def hear_alone(waves: list[np.ndarray]) -> list[str]:
        heard = (whisper.transcribe(wave, condition_on_previous_text=False, **options)[0] for wave in waves)
        return ["".join(segment.text for segment in segments) for segments in heard]

    def index(waves: list[np.ndarray]) -> None:
        nonlocal vectors
        hear = hear_together if batched else hear_alone
        with ThreadPoolExecutor(workers) as pool:
            shares = np.array_split(np.arange(len(waves)), workers)
            heard = pool.map(hear, [[waves[row] for row in share] for share in shares])
            texts = list(itertools.chain(*heard))
        vectors = encoder.encode(texts, normalize_embeddings=True)

    def scores(questions: list[str]) -> dict[str, np.ndarray]:
        return {"recall_at_1": encoder.encode(questions, normalize_embeddings=True) @ vectors.T}

    return System(f"{WHISPER_ID} int8, {MINILM_ID}", index, scores)


def make(name: str) -> System:
    if name.startswith("clsr"):
        return clsr("bfloat16" if name == "clsr-bfloat16" else None)
    return cascade(name != "cascade", 2 if name == "cascade-batched-two" else 1)


def child(pipe: Connection, name: str, passages: Path) -> None:
    """Load one system; answer each None with the seconds of indexing, a list of questions with the scores."""
    stored = np.load(passages)
    waves = [stored[name] for name in stored.files]
    system = make(name)
    system.index(waves[:2])  # warm up
    pipe.send(system.name)
    while (questions := pipe.recv()) is None:
        start = time.perf_counter()
        system.index(waves)
        pipe.send(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pipe.send((system.scores(questions), memory))


def answers(passage: dict, question: dict) -> bool:
    """Tell whether a passage holds more than half of the sentence that answers."""
    overlap = min(passage["end"], question["end"]) - max(passage["start"], question["start"])
    return passage["file"] == question["file"] and overlap > 0.5 * (question["end"] - question["start"])


def ratio_of(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Return median, least and most of the rounds' ratios."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    from modeling_clsr.evaluation.metrics import proportion_interval
    from modeling_clsr.hub.stamp import make_stamp, write_stamped

    stamp = make_stamp()
    waves, rows = cut(LIBRARY)
    questions = json.loads((LIBRARY / "questions.json").read_text(encoding="utf-8"))
    texts = [question["question"] for question in questions]
    audio_s = sum(map(len, waves)) / RATE
    data = f"{audio_s / 60:.1f} min of speech, {len(waves)} passages, {len(questions)} questions"
    print(data)
    spawn = multiprocessing.get_context("spawn")
    systems = list(arguments.systems)
    pipes: dict[str, Connection] = {}
    names: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as folder:
        passages = Path(folder) / "passages.npz"
        np.savez(passages, *waves)
        for name in systems:
            pipes[name], other = spawn.Pipe()
            spawn.Process(target=child, args=(other, name, passages), daemon=True).start()
            names[name] = pipes[name].recv()
    for number in range(arguments.rounds):
        turn = number % len(systems)
        for name in systems[turn:] + systems[:turn]:
            pipes[name].send(None)
            seconds[name].append(pipes[name].recv())
        print(f"round {number + 1}: " + ", ".join(f"{name} {seconds[name][-1]:.1f} s" for name in systems))
    print(f"{'system':20}{'x real time':>12}{'peak GB':>9}{'R@1':>21}{'with moment':>21}")
    results = []
    for name in systems:
        pipes[name].send(texts)
        scores, memory = pipes[name].recv()
        result = {
            "system": name,
            "model": names[name],
            "times_real_time": audio_s / statistics.median(seconds[name]),
            "seconds": seconds[name],
            "peak_memory_gb": memory,
        }
        line = f"{name:20}{result['times_real_time']:12.1f}"
        line += f"{memory:9.2f}"
        for kind, matrix in scores.items():
            best = zip(matrix.argmax(axis=1), questions, strict=True)
            right = sum(answers(rows[row], question) for row, question in best)
            result[kind] = right / len(questions)
            low, high = result[f"{kind}_interval"] = proportion_interval(right, len(questions))
            line += f"{f'{result[kind]:.2f} ({low:.2f} to {high:.2f})':>21}"
        results.append(result)
        print(line)
    ratios = {
        f"{own} / {rival}": ratio_of(seconds[rival], seconds[own])
        for own in systems
        for rival in systems
        if own not in CASCADES and rival in CASCADES
    }
    for name, (middle, least, most) in ratios.items():
        print(f"{name}: {middle:.2f} times as fast ({least:.2f} to {most:.2f})")
    if arguments.json:
        write_stamped(
            arguments.json,
            {"systems": results, "times_as_fast": ratios},
            stamp,
            data=f"examples/library, {data}",
            rounds=arguments.rounds,
            batch_sizes={"clsr": CLSR_BATCH, "cascade": CASCADE_BATCH},
        )


if __name__ == "__main__":
    main()
