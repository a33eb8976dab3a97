"""Word error rate and speed of the recogniser at true length and padded, beside stock Whisper.

    python benchmarks/recognition.py ../shared/data/speech/reread.jsonl --json benchmarks/results/recognition.json
    python benchmarks/recognition.py ../shared/data/speech/reread.jsonl --limit 30 --tail 0 1 2
    python benchmarks/recognition.py ../shared/data/speech/reread.jsonl --also distilled=WORK/selfdistil --tail 0.5 1

Four ways over the same clips in one run: stock `WhisperForConditionalGeneration` padded to 30 s; CLSR padded;
CLSR at true length; CLSR at true length with suspicious transcripts decoded again. Greedy, float32.
Another checkpoint (`--also`) is heard at true length, too, and its word errors are tested against those of the first.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from modeling_clsr import CLSRModel, CLSRProcessor
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.evaluation.metrics import count_word_errors
from modeling_clsr.evaluation.significance import paired_test, ratio_interval, shown_difference
from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.hub.parts import write_whisper_base
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval.encoder import checkpoint_fingerprint


class Ours:
    """CLSR's transcripts with one kind of padding."""

    def __init__(self, model: CLSRModel, processor: CLSRProcessor, padding: bool | str):
        self.model, self.processor, self.padding = model, processor, padding

    def __call__(self, audio: list) -> list[tuple[str, list[int]]]:
        batch = self.processor(audio=audio, sampling_rate=16000, padding=self.padding)
        return [(transcript.text, transcript.token_ids) for transcript in self.model.transcribe(**batch)]


class StockWhisper:
    """The library's own Whisper from the same package, with its own `generate`."""

    def __init__(self, processor: CLSRProcessor, text):
        with tempfile.TemporaryDirectory() as folder:
            self.whisper = WhisperForConditionalGeneration.from_pretrained(
                write_whisper_base(Path(folder) / "whisper")
            )
        self.processor, self.text = processor, text

    @torch.no_grad()
    def __call__(self, audio: list) -> list[tuple[str, list[int]]]:
        features = self.processor(audio=audio, sampling_rate=16000, padding="max_length")["input_features"]
        rows = self.whisper.eval().generate(features, language="en", task="transcribe").tolist()
        end = self.whisper.config.eos_token_id
        rows = [[token for token in row if token < end] for row in rows]
        return [(self.text(row)[0], row) for row in rows]


def count(part: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "clips", type=Path, help="JSON lines with audio (path from the parent folder) and transcript"
    )
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the default checkpoint)")
    parser.add_argument("--limit", type=int, help="use the first clips only")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tail", type=float, nargs="+", help="seconds of silence behind each clip to try")
    parser.add_argument(
        "--also", metavar="NAME=FOLDER", help="another checkpoint of the same parts, at true length"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    stamp = make_stamp()

    rows = [json.loads(line) for line in arguments.clips.read_text(encoding="utf-8").splitlines()][
        : arguments.limit
    ]
    waves = [soundfile.read(arguments.clips.parents[1] / row["audio"], dtype="float32")[0] for row in rows]
    truths = [row["transcript"] for row in rows]
    seconds = sum(map(len, waves)) / 16000
    folder = arguments.model or default_checkpoint()
    model, processor = CLSRModel.from_pretrained(folder).eval(), CLSRProcessor.from_pretrained(folder)
    batches = length_batches([len(wave) for wave in waves], arguments.batch_size)
    threads = torch.get_num_threads()
    print(f"{len(waves)} clips, {seconds / 60:.1f} min, batches of {arguments.batch_size}, {threads} threads")
    print(f"{'way':44} {'WER % (95 % interval)':>22} {'x real time':>12}")

    figures: dict[str, dict] = {}
    misheard: dict[str, np.ndarray] = {}  # word errors of each clip, in words of a mean clip

    def run(name: str, transcribe) -> list[list[int]]:
        texts, tokens = [""] * len(waves), [[]] * len(waves)
        start = time.perf_counter()
        for batch in tqdm(batches, desc=name, leave=False):
            for row, (text, ids) in zip(batch, transcribe([waves[row] for row in batch]), strict=True):
                texts[row], tokens[row] = text, ids
        speed = seconds / (time.perf_counter() - start)
        errors, words = count_word_errors(truths, texts)
        rate, interval = float(errors.sum() / words.sum()), ratio_interval(errors, words)
        low, high = interval
        print(f"{name:44} {100 * rate:6.1f} ({100 * low:.1f} to {100 * high:.1f}) {speed:8.1f}")
        figures[name] = {"wer": rate, "wer_interval": interval, "times_real_time": speed}
        misheard[name] = errors / words.mean()
        return tokens

    def run_short(name: str, model: CLSRModel, tail: float, redecode: bool) -> str:
        model.config.tail_silence_s = processor.feature_extractor.tail_silence_s = tail
        model.config.redecode_padded = redecode
        way = f"{name}, true length + {tail:g} s{', suspicious again' if redecode else ''}"
        run(way, Ours(model, processor, True))
        return way

    stock_tokens = run("stock Whisper, padded to 30 s", StockWhisper(processor, model.strings.text))
    model.config.redecode_padded = False
    padded = run("CLSR, padded to 30 s", Ours(model, processor, "max_length"))
    same = sum(ours == theirs for ours, theirs in zip(padded, stock_tokens, strict=True))
    models = {"CLSR": model}
    if arguments.also:
        name, place = arguments.also.split("=", 1)
        models[name] = CLSRModel.from_pretrained(place).eval()
    for tail in arguments.tail or [model.config.tail_silence_s]:
        for redecode in (False, True):
            ways = [run_short(name, one, tail, redecode) for name, one in models.items()]
            for way in ways[1:]:
                test = paired_test(misheard[way], misheard[ways[0]])
                figures[way]["against_first"] = vars(test)
                print(f"{way} - {ways[0]}: word errors {shown_difference(vars(test))}")
    print(f"padded: {same} of {len(waves)} clips equal stock Whisper token for token")
    figures["equal_token_for_token"] = {"clips": same, "of": len(waves)}
    if arguments.json:
        write_stamped(
            arguments.json,
            figures,
            stamp,
            checkpoint=checkpoint_fingerprint(Path(folder)),
            parameters={name: count(part) for name, part in model.named_children() if count(part)},
            clips=f"{arguments.clips.name}, first {len(waves)}, {seconds / 60:.1f} min",
            batch_size=arguments.batch_size,
        )


if __name__ == "__main__":
    main()
