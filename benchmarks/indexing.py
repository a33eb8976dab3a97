"""Speed, memory and recall of indexing: CLSR beside faster-whisper base int8 and sentence-transformers MiniLM.

    python benchmarks/indexing.py --json benchmarks/results/indexing.json

All systems get the same passages of the example library, cut by silero-vad, in the same run, each in a process of its
own, one after the other, with the same number of threads. Peak memory is the process's largest resident set. R@1: share
of questions whose best passage is the right one, by the passage vector alone.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATE = 16000
LIBRARY = Path(__file__).parents[1] / "examples" / "library"
SYSTEMS = ("clsr", "cascade", "cascade-batched")


def cut(folder: Path) -> tuple[list[np.ndarray], list[dict]]:
    from modeling_clsr.data.passages import stream_passages

    waves, rows = [], []
    for file in sorted(folder.glob("*.opus")):
        for passage, wave in stream_passages(file):
            waves.append(wave)
            rows.append({"file": file.name, "start": passage.start_s, "end": passage.end_s})
    return waves, rows


def clsr(
    waves: list[np.ndarray], questions: list[str], batch_size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    from modeling_clsr.data.sampler import length_batches
    from modeling_clsr.hub.build import default_checkpoint
    from modeling_clsr.retrieval.encoder import Encoder

    encoder = Encoder.from_pretrained(default_checkpoint())
    vectors = np.zeros((len(waves), encoder.embed_dim), np.float32)
    start = time.perf_counter()
    for batch in length_batches([len(wave) for wave in waves], batch_size):
        for row, (_, vector) in zip(
            batch, encoder.encode_passages([waves[row] for row in batch]), strict=True
        ):
            vectors[row] = vector
    return vectors, encoder.encode_texts(questions), time.perf_counter() - start


def cascade(
    waves: list[np.ndarray], questions: list[str], batch_size: int, batched: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel
    from sentence_transformers import SentenceTransformer

    from modeling_clsr.hub.parts import minilm_folder, write_whisper_ct2

    with tempfile.TemporaryDirectory() as folder:
        whisper = WhisperModel(
            str(write_whisper_ct2(Path(folder) / "whisper")), device="cpu", compute_type="int8"
        )
    encoder = SentenceTransformer(str(minilm_folder()), device="cpu")
    options = {"language": "en", "beam_size": 1, "without_timestamps": True}
    start = time.perf_counter()
    texts = []
    if batched:
        # Its own batching works inside one recording: the passages stand one behind the other, cut where we cut.
        lengths = np.cumsum([0, *map(len, waves)])
        clips = [{"start": a / RATE, "end": b / RATE} for a, b in itertools.pairwise(lengths)]
        pipeline = BatchedInferencePipeline(whisper)
        segments, _ = pipeline.transcribe(
            np.concatenate(waves), batch_size=batch_size, clip_timestamps=clips, vad_filter=False, **options
        )
        heard = [""] * len(waves)
        for segment in segments:
            row = int(np.searchsorted(lengths, (segment.start + 0.01) * RATE, side="right")) - 1
            heard[min(max(row, 0), len(waves) - 1)] += segment.text
        texts = heard
    else:
        for wave in waves:
            segments, _ = whisper.transcribe(wave, condition_on_previous_text=False, **options)
            texts.append("".join(segment.text for segment in segments))
    vectors = encoder.encode(texts, normalize_embeddings=True)
    seconds = time.perf_counter() - start
    return np.asarray(vectors), np.asarray(encoder.encode(questions, normalize_embeddings=True)), seconds


def child(system: str, folder: Path, batch_size: int) -> None:
    stored = np.load(folder / "passages.npz")
    waves = [stored[name] for name in stored.files]
    rows, questions = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    texts = [question["question"] for question in questions]
    if system == "clsr":
        vectors, asked, seconds = clsr(waves, texts, batch_size)
    else:
        vectors, asked, seconds = cascade(waves, texts, batch_size, system == "cascade-batched")
    best = (asked @ vectors.T).argmax(axis=1)
    right = 0
    for question, row in zip(questions, best, strict=True):
        found = rows[row]
        overlap = min(found["end"], question["end"]) - max(found["start"], question["start"])
        right += found["file"] == question["file"] and overlap > 0.5 * (question["end"] - question["start"])
    audio_s = sum(map(len, waves)) / RATE
    print(
        json.dumps(
            {
                "system": system,
                "times_real_time": audio_s / seconds,
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "recall_at_1": right / len(questions),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), arguments.batch_size)
        return
    waves, rows = cut(LIBRARY)
    questions = json.loads((LIBRARY / "questions.json").read_text(encoding="utf-8"))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "passages.npz", *waves)
        (Path(folder) / "rows.json").write_text(json.dumps([rows, questions]), encoding="utf-8")
        minutes = sum(map(len, waves)) / RATE / 60
        print(f"{len(waves)} passages, {minutes:.1f} min of speech, {len(questions)} questions")
        print(f"{'system':18}{'x real time':>12}{'peak GB':>9}{'R@1':>6}")
        for system in SYSTEMS:
            command = [
                sys.executable,
                __file__,
                "--batch-size",
                str(arguments.batch_size),
                "--child",
                system,
                folder,
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            results.append(result)
            print(
                f"{system:18}{result['times_real_time']:12.1f}{result['peak_memory_gb']:9.2f}"
                f"{result['recall_at_1']:6.2f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
