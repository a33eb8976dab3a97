"""Decoding: every format gives the same samples, every broken file one clear line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_clsr.data import audio
from modeling_clsr.data.audio import audio_blocks, audio_duration, find_recordings, load_audio, read_range


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_every_format_and_rate_gives_the_same_tone(tmp_path: Path, suffix: str, rate: int):
    soundfile.write(tmp_path / f"a.{suffix}", tone(2.0, rate), rate)
    waveform = load_audio(tmp_path / f"a.{suffix}")
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(32000, abs=1)
    assert np.abs(np.fft.rfft(waveform[:32000])).argmax() == pytest.approx(880, abs=1)  # 440 Hz in 2 s
    assert audio_duration(tmp_path / f"a.{suffix}") == pytest.approx(2.0, abs=1e-3)


def test_opus_at_its_own_rate_is_resampled(tmp_path: Path):
    soundfile.write(tmp_path / "a.opus", tone(1.0, 48000), 48000, format="OGG", subtype="OPUS")
    assert len(load_audio(tmp_path / "a.opus")) == pytest.approx(16000, abs=1)


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_blocks_joined_are_the_recording(tmp_path: Path, rate: int):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, rate)
    joined = np.concatenate(list(audio_blocks(tmp_path / "a.wav", block_s=0.37)))
    assert len(joined) == 48000
    np.testing.assert_allclose(joined, load_audio(tmp_path / "a.wav"), atol=1e-6)


def test_channels_are_averaged(tmp_path: Path):
    left = tone(0.5, 16000)
    soundfile.write(
        tmp_path / "a.wav", np.stack([left, np.zeros_like(left)] * 4, axis=1), 16000, subtype="FLOAT"
    )
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), left / 2, atol=1e-7)


def write_m4a(path: Path, waveform: np.ndarray, rate: int) -> None:
    av = pytest.importorskip("av", reason='the extra "audio" is not installed')
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for piece in (frame, None):
            for packet in stream.encode(piece):
                container.mux(packet)


def test_container_gives_the_same_tone(tmp_path: Path):
    write_m4a(tmp_path / "a.m4a", tone(2.0, 44100), 44100)
    waveform = load_audio(tmp_path / "a.m4a")
    assert len(waveform) == pytest.approx(32000, abs=1024)  # the codec fills its last frame
    assert np.abs(np.fft.rfft(waveform[:32000])).argmax() == pytest.approx(880, abs=1)
    assert audio_duration(tmp_path / "a.m4a") == pytest.approx(2.0, abs=0.1)


def sweep(seconds: float, rate: int) -> np.ndarray:
    """Make a tone that rises from 200 Hz by 100 Hz a second, so that no two parts of it are alike."""
    at = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 * at + 50 * at**2))).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3", "m4a"])
@pytest.mark.parametrize("start_s", [0.0, 0.4, 21.37])
def test_a_part_is_that_of_the_whole_recording(tmp_path: Path, suffix: str, start_s: float):
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write_m4a(path, sweep(30.0, 48000), 48000)
    else:
        options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
        soundfile.write(path, sweep(30.0, 48000), 48000, **options)
    part, whole = read_range(path, start_s, start_s + 2.5), load_audio(path)
    assert len(part) == 40000
    first = round(16000 * start_s)
    near = np.corrcoef(part, whole[first : first + 40000])[0, 1]
    late = np.corrcoef(part, whole[first + 16 : first + 40016])[0, 1]  # 1 ms
    assert near > 0.99 and near > late


def test_a_part_behind_the_end_is_short_or_empty(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", tone(2.0, 16000), 16000)
    assert len(read_range(tmp_path / "a.wav", 1.5, 9.0)) == 8000
    assert len(read_range(tmp_path / "a.wav", 20.0, 21.0)) == 0


def test_a_late_part_is_found_without_decoding_what_is_before(tmp_path: Path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", tone(120.0, 16000), 16000)
    decoded = []
    decode = audio._decode
    monkeypatch.setattr(
        audio, "_decode", lambda *args: (decoded.append(len(found[0])) or found for found in decode(*args))
    )
    read_range(tmp_path / "a.flac", 100.0, 103.0)
    assert sum(decoded) <= 30 * 16000


def test_container_without_pyav_names_the_extra(tmp_path: Path):
    write_m4a(tmp_path / "a.m4a", tone(0.5, 44100), 44100)
    code = (
        "import runpy, sys; sys.modules['av'] = None\n"
        "try: runpy.run_path(sys.argv[1])['load_audio'](sys.argv[2])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, audio.__file__, tmp_path / "a.m4a"], capture_output=True, text=True
    )
    assert "a.m4a needs PyAV" in done.stdout and '"audio" extra' in done.stdout, done.stderr


def broken_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / (kind if "." in kind else f"{kind}.wav")
    if kind.startswith("text"):
        path.write_text("Dear all, these are the minutes.\n" * 20)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no_samples":
        soundfile.write(path, tone(0.0, 44100), 44100)
    elif kind == "nan":
        samples = tone(1.0, 16000)
        samples[8000] = np.nan
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    elif kind == "truncated":
        soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).uniform(-1, 1, 160000), 16000)
        path.write_bytes((tmp_path / "whole.flac").read_bytes()[:100000])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("text", ValueError, r"text\.wav begins with b'Dear all' .* convert it to WAV"),
        ("text.flac", ValueError, r"text\.flac begins with b'Dear all' .* convert it to WAV"),
        ("text.m4a", ValueError, r"text\.m4a begins with b'Dear all' .* convert it to WAV"),
        ("empty", ValueError, r"empty\.wav has 0 bytes .* copy it again"),
        ("no_samples", ValueError, r"holds 0 samples but at least 1 is needed; drop it"),
        ("nan", ValueError, r"1 NaN or infinite samples of 16000, the first at 0\.50 s; repair"),
        ("truncated", ValueError, r"broken after \d+ of 160000 samples .*; copy it again"),
        ("folder", IsADirectoryError, r"folder\.wav is a folder but a recording is needed; name a file"),
        ("absent", FileNotFoundError, r"absent\.wav does not exist; check the spelling"),
    ],
)
def test_broken_file_is_one_line_with_what_is_wrong_and_what_to_do(tmp_path: Path, kind, error, message):
    with pytest.raises(error, match=message) as caught:
        load_audio(broken_file(tmp_path, kind))
    assert "\n" not in str(caught.value)


def test_typo_in_a_name_gets_the_nearest_name(tmp_path: Path):
    (tmp_path / "lecture.wav").touch()
    with pytest.raises(
        FileNotFoundError, match=r"lectrue\.wav does not exist; did you mean .*lecture\.wav\?"
    ):
        load_audio(tmp_path / "lectrue.wav")


def test_folders_are_walked_and_files_taken_as_named(tmp_path: Path):
    for name in ("b.wav", "a.FLAC", "deep/c.m4a", "notes.txt", "recording.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_recordings([tmp_path / "recording.dat", tmp_path, tmp_path / "b.wav"])
    assert [path.name for path in found] == ["recording.dat", "a.FLAC", "b.wav", "c.m4a"]


def test_folder_without_recordings_is_an_error(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"holds 1 files but no recording \(\.wav, .*name another folder"
    ):
        find_recordings([tmp_path])
