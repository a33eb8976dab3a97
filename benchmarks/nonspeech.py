"""Words that the model hears where nobody speaks: ten minutes each of silence, white noise and tones.

    python benchmarks/nonspeech.py --speech ../shared/data/speech --json benchmarks/results/nonspeech.json

Twice: through the model alone, cut every 25 s, and as `clsr index` does it, with silero-vad before the model. With
`--speech`, also how sure the model is of real speech and of these, which is what `logprob_floor` must part.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from modeling_clsr.data.passages import stream_passages
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval.encoder import Encoder

RATE = 16000
PIECE_S = 25
SPEECH_SETS = {"reread": 40, "librispeech": 40, "prompts": 40, "speechocean": 60}  # clips of each


def make_audio(minutes: float) -> dict[str, np.ndarray]:
    """Return silence, white noise at -20 dB and a melody of three-voice chords that changes twice a second."""
    samples = int(minutes * 60 * RATE)
    generator = np.random.default_rng(0)
    time = np.arange(samples) / RATE
    notes = generator.integers(0, 25, (3, samples // (RATE // 2) + 1))
    chords = [110 * 2 ** (voice[np.minimum((time * 2).astype(int), len(voice) - 1)] / 12) for voice in notes]
    phases = [2 * np.pi * np.cumsum(frequency) / RATE for frequency in chords]
    swell = 0.5 + 0.5 * np.abs(np.sin(np.pi * time * 2))
    audio = {
        "silence": np.zeros(samples),
        "white noise": 0.1 * generator.standard_normal(samples),
        "tones": 0.08 * swell * sum(np.sin(phase) + 0.4 * np.sin(2 * phase) for phase in phases),
    }
    return {name: wave.astype(np.float32) for name, wave in audio.items()}


def sureness(encoder: Encoder, speech: Path) -> dict[str, float]:
    """Return the lowest mean log probability of real clips and the highest of noise and tones, no rule at work."""
    config = encoder.model.config
    rules = config.no_speech_threshold, config.logprob_floor
    config.no_speech_threshold, config.logprob_floor = 2.0, -100.0
    waves = []
    for name, number in SPEECH_SETS.items():
        lines = (speech / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines[:: max(1, len(lines) // number)][:number]:
            waves.append(soundfile.read(speech.parent / json.loads(line)["audio"], dtype="float32")[0])
    waves = [wave for wave in waves if len(wave) < encoder.max_audio_s * RATE]
    heard = []
    for batch in length_batches([len(wave) for wave in waves], 8):
        heard += [transcript for transcript, _ in encoder.encode_passages([waves[row] for row in batch])]
    values = {
        f"lowest of {len(waves)} clips of speech": min(math.log(t.probability) for t in heard if t.token_ids)
    }
    for name, wave in make_audio(5).items():
        if name == "silence":  # told by its own no-speech probability
            continue
        pieces = [wave[at : at + PIECE_S * RATE] for at in range(0, len(wave), PIECE_S * RATE)]
        found = [encoder.encode_passages([piece])[0][0] for piece in pieces]
        values[f"highest of {name}"] = max(math.log(t.probability) for t in found if t.token_ids)
    config.no_speech_threshold, config.logprob_floor = rules
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint folder (default: the default checkpoint)")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--speech", type=Path, help="folder with the .jsonl lists of recorded clips")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    stamp = make_stamp()
    encoder = Encoder.from_pretrained(arguments.model or default_checkpoint())
    figures: dict[str, Any] = {}
    print(f"{arguments.minutes:g} min of each      words, model alone   words, as indexed")
    for name, wave in make_audio(arguments.minutes).items():
        pieces = [wave[at : at + PIECE_S * RATE] for at in range(0, len(wave), PIECE_S * RATE)]
        alone = [
            encoder.encode_passages([piece])[0][0].text for piece in tqdm(pieces, desc=name, leave=False)
        ]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "audio.flac"
            soundfile.write(file, wave, RATE)
            indexed = [encoder.encode_passages([clip])[0][0].text for _, clip in stream_passages(file)]
        counts = [len(" ".join(texts).split()) for texts in (alone, indexed)]
        figures[name] = {"words_model_alone": counts[0], "words_as_indexed": counts[1]}
        print(f"{name:20} {counts[0]:18} {counts[1]:18}   {sorted(set(filter(None, alone)))[:5]}")
    if arguments.speech:
        figures["mean_log_probability"] = sureness(encoder, arguments.speech)
        for name, value in figures["mean_log_probability"].items():
            print(f"mean log probability, {name}: {value:.2f}")
    if arguments.json:
        write_stamped(
            arguments.json, figures, stamp, checkpoint=encoder.fingerprint, minutes=arguments.minutes
        )


if __name__ == "__main__":
    main()
