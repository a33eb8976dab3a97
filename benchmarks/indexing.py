"""Speed, memory and recall of indexing: CLSR beside faster-whisper base int8 and sentence-transformers MiniLM.

    python benchmarks/indexing.py --json benchmarks/results/indexing.json

All systems get the same passages of the example library, cut by silero-vad, in the same run, each in a process of its
own, one after the other, with the same number of threads. Peak memory is the process's largest resident set. R@1: share
of questions whose best passage is the right one, by the passage vector alone; for CLSR also as `clsr search` ranks, by
passage and moment. The 95 % intervals are Wilson's.
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
) -> tuple[dict[str, np.ndarray], float, str]:
    """Return scores by the vector alone and as `clsr search` ranks, (Q, N) each; seconds of indexing; checkpoint."""
    from modeling_clsr.data.sampler import length_batches
    from modeling_clsr.hub.build import default_checkpoint
    from modeling_clsr.retrieval.encoder import Encoder
    from modeling_clsr.retrieval.moments import embed_windows, find_moments
    from modeling_clsr.retrieval.search import joint_score

    encoder = Encoder.from_pretrained(default_checkpoint())
    vectors = np.zeros((len(waves), encoder.embed_dim), np.float32)
    transcripts = [""] * len(waves)
    words: list[list] = [[] for _ in waves]
    start = time.perf_counter()
    for batch in length_batches([len(wave) for wave in waves], batch_size):
        found = encoder.encode_passages([waves[row] for row in batch])
        for row, (transcript, vector) in zip(batch, found, strict=True):
            vectors[row], transcripts[row], words[row] = vector, transcript.text, transcript.words
    seconds = time.perf_counter() - start
    asked = encoder.encode_texts(questions)
    alone = asked @ vectors.T
    windows = embed_windows(encoder, transcripts, words)
    joint = np.array(
        [
            [
                joint_score(cosine, moment and moment.score)
                for cosine, moment in zip(row, find_moments(vector, transcripts, words, windows), strict=True)
            ]
            for row, vector in zip(alone, asked, strict=True)
        ]
    )
    return {"recall_at_1": alone, "recall_at_1_with_moment": joint}, seconds, encoder.fingerprint


def cascade(
    waves: list[np.ndarray], questions: list[str], batch_size: int, batched: bool
) -> tuple[dict[str, np.ndarray], float, str]:
    """Return scores by the vector, (Q, N); seconds of indexing; the parts' names."""
    import torch
    from faster_whisper import BatchedInferencePipeline, WhisperModel
    from sentence_transformers import SentenceTransformer

    from modeling_clsr.hub.parts import MINILM_ID, WHISPER_ID, minilm_folder, write_whisper_ct2

    with tempfile.TemporaryDirectory() as folder:
        whisper = WhisperModel(
            str(write_whisper_ct2(Path(folder) / "whisper")),
            device="cpu",
            compute_type="int8",
            cpu_threads=torch.get_num_threads(),
        )
    encoder = SentenceTransformer(str(minilm_folder()), device="cpu")
    options = {"language": "en", "beam_size": 1, "without_timestamps": True}
    start = time.perf_counter()
    texts = [""] * len(waves)
    if batched:
        # Its own batching works inside one recording: the passages stand one behind the other, cut where we cut.
        bounds = np.cumsum([0, *map(len, waves)])
        clips = [{"start": a / RATE, "end": b / RATE} for a, b in itertools.pairwise(bounds)]
        segments, _ = BatchedInferencePipeline(whisper).transcribe(
            np.concatenate(waves), batch_size=batch_size, clip_timestamps=clips, vad_filter=False, **options
        )
        for segment in segments:
            row = int(np.searchsorted(bounds, (segment.start + 0.01) * RATE, side="right")) - 1
            texts[min(max(row, 0), len(waves) - 1)] += segment.text
    else:
        for row, wave in enumerate(waves):
            segments, _ = whisper.transcribe(wave, condition_on_previous_text=False, **options)
            texts[row] = "".join(segment.text for segment in segments)
    vectors = encoder.encode(texts, normalize_embeddings=True)
    seconds = time.perf_counter() - start
    asked = encoder.encode(questions, normalize_embeddings=True)
    return {"recall_at_1": asked @ vectors.T}, seconds, f"{WHISPER_ID} int8, {MINILM_ID}"


def child(system: str, folder: Path, batch_size: int) -> None:
    from modeling_clsr.evaluation.metrics import proportion_interval

    stored = np.load(folder / "passages.npz")
    waves = [stored[name] for name in stored.files]
    rows, questions = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    texts = [question["question"] for question in questions]
    if system == "clsr":
        scores, seconds, model = clsr(waves, texts, batch_size)
    else:
        scores, seconds, model = cascade(waves, texts, batch_size, system == "cascade-batched")
    result = {
        "system": system,
        "model": model,
        "times_real_time": sum(map(len, waves)) / RATE / seconds,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    for name, matrix in scores.items():
        right = sum(
            answers(rows[row], question)
            for row, question in zip(matrix.argmax(axis=1), questions, strict=True)
        )
        result[name] = right / len(questions)
        result[f"{name}_interval"] = proportion_interval(right, len(questions))
    print(json.dumps(result))


def answers(passage: dict, question: dict) -> bool:
    """Tell whether a passage holds more than half of the sentence that answers."""
    overlap = min(passage["end"], question["end"]) - max(passage["start"], question["start"])
    return passage["file"] == question["file"] and overlap > 0.5 * (question["end"] - question["start"])


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
    from modeling_clsr.hub.stamp import make_stamp, write_stamped

    stamp = make_stamp()
    waves, rows = cut(LIBRARY)
    questions = json.loads((LIBRARY / "questions.json").read_text(encoding="utf-8"))
    minutes = sum(map(len, waves)) / RATE / 60
    results = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "passages.npz", *waves)
        (Path(folder) / "rows.json").write_text(json.dumps([rows, questions]), encoding="utf-8")
        print(f"{len(waves)} passages, {minutes:.1f} min of speech, {len(questions)} questions")
        print(f"{'system':18}{'x real time':>12}{'peak GB':>9}{'R@1 (95 % interval)':>22}{'with moment':>22}")
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
            line = f"{system:18}{result['times_real_time']:12.1f}{result['peak_memory_gb']:9.2f}"
            for name in ("recall_at_1", "recall_at_1_with_moment"):
                if name in result:
                    low, high = result[f"{name}_interval"]
                    line += f"{f'{result[name]:.2f} ({low:.2f} to {high:.2f})':>22}"
            print(line)
    if arguments.json:
        data = f"examples/library, {minutes:.1f} min of speech, {len(waves)} passages, {len(questions)} questions"
        write_stamped(arguments.json, {"systems": results}, stamp, data=data, batch_size=arguments.batch_size)


if __name__ == "__main__":
    main()
