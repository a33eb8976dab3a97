"""Exported folders: complete, checked, never half there."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_clsr.hub.export import NEEDED, check_checkpoint, export_checkpoint
from tests.tiny_parts import tiny_parts


def test_exported_folder_holds_what_every_library_needs(tiny_checkpoint):
    assert set(NEEDED) <= {file.name for file in tiny_checkpoint.iterdir()}
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    implementation = config["custom_pipelines"]["speech-retrieval"]["impl"]
    assert (tiny_checkpoint / f"{implementation.split('.')[0]}.py").is_file()
    (module,) = json.loads((tiny_checkpoint / "modules.json").read_text())
    assert (tiny_checkpoint / f"{module['type'].split('.')[0]}.py").is_file()
    assert (tiny_checkpoint / "handler.py").read_text() == (tiny_checkpoint / "handler_clsr.py").read_text()


def test_every_save_writes_the_companions(tmp_path):
    """push_to_hub and the Trainer call save_pretrained, not export_checkpoint."""
    tiny_parts("whisper", tmp_path).model().save_pretrained(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert {"modules.json", "sentence_clsr.py", "pipeline_clsr.py", "handler.py", "requirements.txt"} <= names


def test_export_replaces_a_folder_and_leaves_nothing_beside_it(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    (tmp_path / "out" / "clsr").mkdir(parents=True)
    (tmp_path / "out" / "clsr" / "old.txt").touch()
    export_checkpoint(parts.model(), parts.processor(), tmp_path / "out" / "clsr")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["clsr"]
    assert not (tmp_path / "out" / "clsr" / "old.txt").exists()


def test_broken_folders_are_refused(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    model, processor = parts.model(), parts.processor()
    folder = export_checkpoint(model, processor, tmp_path / "clsr")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("text_model.encoder") and name.endswith("weight"))
    save_file(weights | {name: weights[name] + 0.1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError, match="gives other vectors than the model"):
        check_checkpoint(folder, model, processor)
    save_file(
        {key: w for key, w in weights.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(RuntimeError, match="lacks or adds weights"):
        check_checkpoint(folder, model, processor)
    (folder / "pipeline_clsr.py").unlink()
    with pytest.raises(RuntimeError, match=r"has no pipeline_clsr.py"):
        check_checkpoint(folder, model, processor)


def test_training_mode_survives_an_export(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    model = parts.model().train()
    export_checkpoint(model, parts.processor(), tmp_path / "clsr")
    assert model.training


def test_half_precision_is_exported(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    folder = export_checkpoint(parts.model().to(torch.bfloat16), parts.processor(), tmp_path / "clsr")
    weights = load_file(folder / "model.safetensors")
    assert weights["text_model.embeddings.word_embeddings.weight"].dtype == torch.bfloat16
