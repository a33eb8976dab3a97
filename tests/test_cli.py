"""The command line: help on one screen, one line for each mistake, results for people and programs."""

import json

import numpy as np
import pytest
import soundfile

from modeling_clsr.cli import main
from modeling_clsr.retrieval import SpeechIndex

from .tiny_parts import tiny_parts


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


@pytest.mark.parametrize("command", [[], ["build"], ["index"], ["search"]])
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
