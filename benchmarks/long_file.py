r"""What a long recording costs: peak memory of ten minutes against ten hours, and where the time of indexing goes.

    python benchmarks/long_file.py --recording examples/library/lighthouse-lecture.opus \
        --json benchmarks/results/long_file.json

A recording is repeated until it is long enough. Each length is indexed in a process of its own. A second of one lane
counts half, because two batches are encoded beside each other.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import soundfile
import torch

from modeling_clsr.data.audio import SAMPLING_RATE, load_audio
from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval import Encoder, SpeechIndex, indexing
from modeling_clsr.retrieval.lanes import LANES


class Clock:
    """Adds up the seconds spent in named parts, those of a lane as its share."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.alone = threading.Lock()

    def time(self, name: str, function):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                if threading.current_thread() is not threading.main_thread():
                    spent /= LANES
                with self.alone:
                    self.seconds[name] = self.seconds.get(name, 0.0) + spent

        return timed

    def time_items(self, name: str, function):
        def timed(*args, **kwargs) -> Iterator:
            items = function(*args, **kwargs)
            step = self.time(name, lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return timed


def write_repeated(source: Path, seconds: float, target: Path) -> None:
    """Write a recording again and again, to a length."""
    samples = load_audio(source)
    with soundfile.SoundFile(target, "w", SAMPLING_RATE, 1, format="FLAC") as file:
        left = round(seconds * SAMPLING_RATE)
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)


def child(recording: str, folder: str, form: str | None) -> None:
    """Index one recording and print what it cost."""
    clock = Clock()
    encoder = Encoder.from_pretrained(default_checkpoint(), form=form)
    model = encoder.model
    index = SpeechIndex.create(f"{folder}/index", encoder)
    indexing.stream_passages = clock.time_items("read, resample, find pauses", indexing.stream_passages)
    encoder.encode_passages = clock.time("recognise and embed", encoder.encode_passages)  # type: ignore[method-assign]
    index._commit = clock.time("write the table", index._commit)  # type: ignore[method-assign]
    index.maintain = clock.time("indices of the table", index.maintain)  # type: ignore[method-assign]
    start = time.perf_counter()
    report = index.add([recording])
    seconds = time.perf_counter() - start
    stored = sum(file.stat().st_size for file in Path(folder).rglob("index/**/*") if file.is_file())
    print(
        json.dumps(
            {
                "hours": report.audio_s / 3600,
                "passages": report.passages,
                "seconds": seconds,
                "times_real_time": report.audio_s / seconds,
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "bytes_per_hour": stored / (report.audio_s / 3600),
                "parts": clock.seconds,
                "threads": torch.get_num_threads(),
                "parameters": sum(weight.numel() for weight in model.parameters()),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recording", required=True, help="speech, to be repeated")
    parser.add_argument("--minutes", default="10,600", help="lengths, with commas")
    parser.add_argument("--form", help="a faster form, as bfloat16")
    parser.add_argument("--json", help="write the stamped result")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, args.form)
        return
    stamp, figures = make_stamp(), []
    for minutes in map(float, args.minutes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "long.flac"
            write_repeated(Path(args.recording), 60 * minutes, target)
            command = [sys.executable, __file__, "--recording", args.recording]
            command += ["--form", args.form] if args.form else []
            done = subprocess.run(
                [*command, "--child", str(target), folder], stdout=subprocess.PIPE, text=True, check=True
            )
            figures.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(figures[-1]), flush=True)
    if args.json:
        write_stamped(
            args.json, {"lengths": figures}, stamp, recording=Path(args.recording).name, form=args.form
        )


if __name__ == "__main__":
    main()
