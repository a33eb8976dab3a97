"""The command line: help on one screen, one line for each mistake, results for people and programs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import srt

from modeling_clsr.cli import main
from modeling_clsr.data.audio import load_audio
from modeling_clsr.retrieval import Encoder, SpeechIndex

from .tiny_lalm import running_chat_server
from .tiny_parts import tiny_parts

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    parts = tiny_parts("whisper", folder)
    parts.model().save_pretrained(folder / "tiny")
    parts.processor().save_pretrained(folder / "tiny")
    return folder / "tiny"


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["clsr", *map(str, arguments)])
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code
    written = capsys.readouterr()
    return code, written.out, written.err


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in ("build", "index", "delete", "search", "ask", "ui", "transcribe", "serve"))],
)
def test_help_fits_a_screen_and_shows_an_example(monkeypatch, capsys, command):
    code, out, _ = run(monkeypatch, capsys, *command, "--help")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines)
    assert not command or "example:" in out


def test_missing_index_is_one_line(monkeypatch, capsys, tmp_path):
    code, _, err = run(monkeypatch, capsys, "search", "where?", "--index", tmp_path / "nowhere")
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and str(tmp_path / "nowhere") in err


def test_typo_in_a_path_is_one_line_with_the_likely_name(monkeypatch, capsys, tmp_path, checkpoint):
    soundfile.write(tmp_path / "talk.wav", np.zeros(16000), 16000)
    arguments = ["index", tmp_path / "tolk.wav", "--index", tmp_path / "index", "--model", checkpoint]
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and "did you mean" in err and "talk.wav" in err


def test_silent_recording_leaves_an_index_that_says_so(monkeypatch, capsys, tmp_path, checkpoint):
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    arguments = ["index", tmp_path / "silence.wav", "--index", tmp_path / "index", "--model", checkpoint]
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0 and "1 recordings indexed (0 passages" in out
    code, _, err = run(monkeypatch, capsys, "search", "where?", "--index", tmp_path / "index")
    assert code == 2 and "0 passages of speech" in err


def test_text_renamed_to_wav_is_named_and_the_rest_is_indexed(monkeypatch, capsys, tmp_path, checkpoint):
    (tmp_path / "notes.wav").write_text("These are the minutes of the meeting.\n" * 9)
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    code, out, err = run(
        monkeypatch, capsys, "index", tmp_path, "--index", tmp_path / "i", "--model", checkpoint
    )
    assert code == 1
    assert "notes.wav" in err and "1 recordings indexed" in out and "1 failed" in out


def test_json_holds_the_words_and_the_moment(monkeypatch, capsys, tmp_path, checkpoint, reread):
    arguments = ["index", reread[0]["path"], "--index", tmp_path / "index", "--model", checkpoint]
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    if not len(SpeechIndex.open(tmp_path / "index")):
        pytest.skip("the random model heard nothing")
    code, out, _ = run(monkeypatch, capsys, "search", "the sea", "--index", tmp_path / "index", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["question"] == "the sea"
    assert {"source", "start_s", "end_s", "score", "transcript", "words", "moment"} <= set(answer["hits"][0])


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, default_checkpoint, reread):
    """A folder with two recordings, its index, and the sentences that they say."""
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "talks").mkdir()
    for name, row in zip(("one.flac", "two.flac"), reread[:2], strict=True):
        soundfile.write(folder / "talks" / name, load_audio(row["path"]), 16000)
    index = SpeechIndex.create(folder / "index", Encoder.from_pretrained(default_checkpoint, device="cpu"))
    index.add([folder / "talks"])
    return folder, [row["transcript"] for row in reread[:2]]


@pytest.mark.slow
def test_every_mode_finds_the_recording_and_its_passage_is_written_as_a_clip(monkeypatch, capsys, spoken):
    folder, (first, _) = spoken
    for mode in ("hybrid", "dense", "text"):
        arguments = ["search", first, "--index", folder / "index", "-k", 1, "--mode", mode]
        code, out, err = run(monkeypatch, capsys, *arguments, "--clip", folder / mode, "--json")
        (hit,) = json.loads(out)["hits"]
        assert code == 0 and hit["source"].endswith("one.flac") and hit["recorded"].startswith("20")
        (clip,) = (folder / mode).glob("01-one-*s.wav")
        assert f"clsr: wrote {clip}" in err
        assert soundfile.info(clip).duration == pytest.approx(hit["end_s"] - hit["start_s"], abs=0.01)


def test_transcripts_never_overwrite_each_other(monkeypatch, capsys, tmp_path, checkpoint):
    for name in ("a/talk.wav", "a/talk.flac", "b/other.wav", "b/talk.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(32000), 16000)
    command = ["transcribe", tmp_path / "a", tmp_path / "b", "--model", checkpoint]
    code, out, _ = run(monkeypatch, capsys, *command)
    written = ["a/talk.flac.txt", "a/talk.wav.txt", "b/other.txt", "b/talk.txt"]
    assert code == 0 and sorted(out.split()) == [str(tmp_path / name) for name in written]
    monkeypatch.chdir(tmp_path)
    twice = ["transcribe", "b/other.wav", tmp_path / "b/other.wav", "--model", checkpoint, "--out", "once"]
    assert run(monkeypatch, capsys, *twice)[1].split() == ["once/other.txt"]
    code, _, err = run(monkeypatch, capsys, *command, "--out", tmp_path / "out")
    assert code == 2 and "a/talk.wav and " in err and "b/talk.wav would both be written to" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_transcripts_are_written_beside_the_recordings_or_to_stdout(monkeypatch, capsys, spoken):
    folder, (first, _) = spoken
    code, out, _ = run(monkeypatch, capsys, "transcribe", folder / "talks", "-f", "srt")
    files = [folder / "talks" / f"{name}.srt" for name in ("one", "two")]
    assert code == 0 and sorted(out.split()) == [str(file) for file in files]
    cues = list(srt.parse(files[0].read_text()))
    heard = {word.strip(".,").lower() for cue in cues for word in cue.content.split()}
    assert len(heard & {word.strip(".,").lower() for word in first.split()}) > len(first.split()) / 2
    (folder / "talks" / "notes.wav").write_text("no audio")
    code, out, err = run(monkeypatch, capsys, "transcribe", folder / "talks", "--out", "-")
    (folder / "talks" / "notes.wav").unlink()
    assert code == 1 and "clsr: not transcribed:" in err and len(out.splitlines()) >= 2
    for file in files:
        file.unlink()
    code, out, _ = run(
        monkeypatch, capsys, "search", first, "--index", folder / "index", "-f", "vtt", "-k", 1
    )
    assert out.startswith("WEBVTT") and "-->" in out


@pytest.mark.slow
def test_question_is_spoken_or_written_but_not_both_or_neither(monkeypatch, capsys, spoken, reread):
    folder, (first, _) = spoken
    audio = ["--audio", reread[1]["path"], "--index", folder / "index"]
    code, out, _ = run(monkeypatch, capsys, "search", *audio, "-k", 1, "--json")
    assert code == 0 and json.loads(out)["hits"][0]["source"].endswith("two.flac")
    for given, state in (([first, *audio], "both are"), (["--index", folder / "index"], "neither is")):
        code, _, err = run(monkeypatch, capsys, "search", *given)
        assert code == 2 and f"--audio is needed but {state} there" in err


@pytest.mark.slow
def test_ask_answers_with_citations_and_without_a_model_with_moments(monkeypatch, capsys, spoken):
    folder, (first, _) = spoken
    arguments = ["ask", first, "--index", folder / "index", "-k", 2]
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0 and "No model was named (--lalm)" in out and "»" in out
    with running_chat_server(lambda text, clips: f"{len(clips)} clips of speech") as server:
        code, out, _ = run(monkeypatch, capsys, *arguments, "--lalm", server.url)
        assert out.startswith("2 clips of speech\n\nHeard by tiny-lalm in:\n[1] ")
        assert "one.flac 0:00–" in out and first in server.questions[0]
        assert len(server.clips[0][0]) > 16000
        code, out, _ = run(monkeypatch, capsys, *arguments, "--lalm", server.url, "--json")
        assert json.loads(out)["answer"] == "2 clips of speech"
    code, _, err = run(monkeypatch, capsys, *arguments, "--lalm", server.url)
    assert code == 2 and "start the server or check the address" in err


def test_windows_are_remembered_and_other_settings_refused(monkeypatch, capsys, tmp_path, checkpoint):
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    arguments = ["index", tmp_path / "silence.wav", "--index", tmp_path / "index", "--model", checkpoint]
    windows = ["--window", 20, "--overlap", 5]
    assert run(monkeypatch, capsys, *arguments, *windows)[0] == 0
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    code, _, err = run(monkeypatch, capsys, *arguments, "--window", 10)
    assert code == 2 and "cut by fixed (max_s 20, overlap_s 5) but fixed (max_s 10, overlap_s 0)" in err
    code, _, err = run(monkeypatch, capsys, *arguments, "--overlap", 5)
    assert code == 2 and "--overlap is 5 but --window is missing" in err


def test_vanished_recordings_are_taken_out_only_if_asked(monkeypatch, capsys, tmp_path, checkpoint):
    (tmp_path / "talks").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "talks" / f"{name}.wav", np.zeros(32000), 16000)
    arguments = ["index", tmp_path / "talks", "--index", tmp_path / "index", "--model", checkpoint]
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    (tmp_path / "talks" / "a.wav").unlink()
    assert "1 vanished" not in run(monkeypatch, capsys, *arguments)[1]
    assert "1 unchanged, 1 vanished" in run(monkeypatch, capsys, *arguments, "--prune")[1]
    assert len(SpeechIndex.open(tmp_path / "index").sources()) == 1


def test_recordings_are_taken_out_of_the_index_and_stay_in_their_folder(
    monkeypatch, capsys, tmp_path, checkpoint
):
    (tmp_path / "talks").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "talks" / f"{name}.wav", np.zeros(32000), 16000)
    where = ["--index", tmp_path / "index"]
    run(monkeypatch, capsys, "index", tmp_path / "talks", *where, "--model", checkpoint)
    code, _, err = run(monkeypatch, capsys, "delete", tmp_path / "c.wav", *where)
    assert code == 2 and "c.wav is not among the 2 recordings of" in err
    out = run(monkeypatch, capsys, "delete", tmp_path / "talks" / "a.wav", *where)[1]
    assert out == f"1 recordings taken out; {tmp_path / 'index'} has 0 passages\n"
    assert list(SpeechIndex.open(tmp_path / "index").sources()) == [str(tmp_path / "talks" / "b.wav")]
    assert (tmp_path / "talks" / "a.wav").is_file()


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C count, for child processes, too: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_watched_folder_is_kept_current_until_ctrl_c(tmp_path, checkpoint):
    (tmp_path / "talks").mkdir()
    soundfile.write(tmp_path / "talks" / "a.wav", np.zeros(32000), 16000)
    command = [sys.executable, "-m", "modeling_clsr.cli", "index", tmp_path / "talks", "--prune"]
    command += ["--index", tmp_path / "index", "--model", checkpoint, "--watch", "0.2"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings
    ) as done:
        try:
            assert "1 recordings indexed" in done.stdout.readline()
            soundfile.write(tmp_path / "b.wav", np.zeros(32000), 16000)
            (tmp_path / "b.wav").rename(tmp_path / "talks" / "b.wav")
            assert "1 recordings indexed (0 passages" in done.stdout.readline()
            (tmp_path / "talks" / "a.wav").unlink()
            assert "0 recordings indexed" in (line := done.stdout.readline()) and "1 vanished" in line
            (tmp_path / "talks").rename(tmp_path / "away")  # a disk that is not mounted for a while
            time.sleep(1)
            soundfile.write(tmp_path / "away" / "c.wav", np.zeros(32000), 16000)
            (tmp_path / "away").rename(tmp_path / "talks")
            assert "1 recordings indexed" in (line := done.stdout.readline()) and "0 vanished" in line
            done.send_signal(signal.SIGINT)
            try:
                _, err = done.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                done.send_signal(signal.SIGABRT)
                pytest.fail(f"goes on after Ctrl-C: {done.communicate()[1]}")  # where each thread is
        finally:
            done.kill()
    assert done.returncode == 130 and "interrupted; finished recordings are kept" in err


class Loses:
    """Something at whose end Ctrl-C is pressed: Python drops an exception that is raised there."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_watching_ends_at_a_ctrl_c_that_python_drops(monkeypatch, capsys, tmp_path, checkpoint):
    soundfile.write(tmp_path / "a.wav", np.zeros(32000), 16000)
    before, prune, turns = signal.getsignal(signal.SIGINT), SpeechIndex.prune, []

    def losing_prune(*arguments):
        turns.append(len(turns))
        if len(turns) == 2:
            Loses()
        assert len(turns) < 9
        return prune(*arguments)

    monkeypatch.setattr(SpeechIndex, "prune", losing_prune)
    watch = ["--prune", "--watch", "0.01", "--model", checkpoint, "--index", tmp_path / "index"]
    code, _, err = run(monkeypatch, capsys, "index", tmp_path / "a.wav", *watch)
    assert code == 130 and "interrupted; finished recordings are kept" in err
    assert len(turns) == 2 and signal.getsignal(signal.SIGINT) is before
