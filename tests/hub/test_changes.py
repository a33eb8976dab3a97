"""Changes and releases: exact, small, the same everywhere, and built whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_clsr import CLSRConfig, CLSRProcessor
from modeling_clsr.cli import main as clsr
from modeling_clsr.hub import changes as module
from modeling_clsr.hub.changes import (
    apply_changes,
    change_errors,
    compress_changes,
    file_sha256,
    load_changes,
    load_weights,
    main,
    overlay,
    render_changes,
    save_changes,
)
from modeling_clsr.hub.export import NEEDED
from modeling_clsr.hub.release import build_release, checkpoint_folder, find_release, freeze_release
from tests.clean_process import run_clean
from tests.tiny_parts import tiny_parts

FOREIGN = """
import sys
sys.modules["modeling_clsr"] = None  # the package is not installed
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
vector = model.get_text_features(**processor(text=["a bee"])).pooler_output[0]
same = SentenceTransformer(folder, trust_remote_code=True, device="cpu").encode(["a bee"])[0]
assert abs(vector.detach().numpy() - same).max() < 1e-6
print(processor.feature_extractor.tail_silence_s, [round(float(number), 5) for number in vector[:4]])
"""


def moved(*shape: int) -> torch.Tensor:
    return 0.01 * torch.randn(shape)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "speech.matrix": torch.randn(96, 64),
        "speech.kernel": torch.randn(48, 20, 3),
        "speech.bias": torch.randn(96),
        "text.matrix": torch.randn(64, 64),
        "still": torch.randn(8, 8),
    }


@pytest.fixture
def tuned(weights) -> dict[str, torch.Tensor]:
    return weights | {
        "speech.matrix": weights["speech.matrix"] + moved(96, 64),
        "speech.kernel": weights["speech.kernel"] + moved(48, 20, 3),
        "speech.bias": weights["speech.bias"] + 0.1,
        "text.matrix": weights["text.matrix"] + moved(64, 64),
    }


@pytest.mark.parametrize(("bits", "lost"), [(8, 0.01), (4, 0.15)])
def test_few_bits_keep_most_of_a_change(weights, tuned, bits, lost):
    changes = compress_changes(weights, tuned, bits)
    width = 64 if bits == 4 else 128  # 64 columns fill half a block
    assert changes["speech.matrix.steps"].shape == (96, width)
    assert changes["speech.kernel.scale"].shape == (48, 1)
    errors = change_errors(weights, tuned, changes)
    assert errors.keys() == tuned.keys() - {"still"}
    assert all(row["error"] < lost for row in errors.values())
    assert errors["text.matrix"]["bits"] == bits and errors["speech.bias"]["bits"] is None
    for name, weight in apply_changes(weights, changes).items():
        assert weight.shape == weights[name].shape and weight.dtype == torch.float32


def test_error_is_what_the_steps_leave_out():
    """Known answer: 4 bits take 7 steps of 1 here; 3.4 becomes 3, and 0.4 is lost."""
    base = {"matrix": torch.zeros(1, 2)}
    tuned = {"matrix": torch.tensor([[7.0, -3.4]])}
    changes = compress_changes(base, tuned, 4)
    assert apply_changes(base, changes)["matrix"].tolist() == [[7.0, -3.0]]
    lost = change_errors(base, tuned, changes)["matrix"]["error"]
    assert lost == pytest.approx(0.4 / (49 + 3.4**2) ** 0.5, abs=1e-6)


def test_rows_that_did_not_change_stay_and_small_changes_are_kept_beside_large_ones():
    torch.manual_seed(0)
    base = {"table": torch.randn(5000, 32)}
    new = base["table"].clone()
    new[17] += 1.0
    new[4711] += 0.001 * torch.randn(32)  # a thousand times smaller
    kept = apply_changes(base, compress_changes(base, {"table": new}, 8))["table"]
    for row in (17, 4711):
        lost = (kept[row] - new[row]).norm() / (new[row] - base["table"][row]).norm()
        assert lost < 1e-2
    assert torch.equal(kept[:17], base["table"][:17])


def test_unchanged_weights_take_no_room_and_vectors_are_kept_exactly(weights, tuned):
    changes = compress_changes(weights, tuned, 4)
    assert not any(name.startswith("still") for name in changes)
    kept = apply_changes(weights, changes)
    assert kept["still"] is weights["still"]
    assert torch.equal(kept["speech.bias"], tuned["speech.bias"])
    assert compress_changes(weights, {}, 4) == {}


def test_weights_are_the_same_bits_whatever_the_threads(weights, tuned):
    changes = compress_changes(weights, tuned, 4)
    nibbles = changes["speech.matrix.steps"]
    steps = torch.stack([nibbles & 15, nibbles >> 4], dim=-1).flatten(1)[:, :64].float() - 8
    expected = weights["speech.matrix"] + steps * changes["speech.matrix.scale"]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(apply_changes(weights, changes)["speech.matrix"], expected)
    finally:
        torch.set_num_threads(threads)


def test_bits_go_by_the_first_expression_that_fits(weights, tuned):
    changes = compress_changes(weights, tuned, {r"^text\.": 8, "": 4})
    assert changes["text.matrix.steps"].dtype == torch.int8
    assert changes["speech.matrix.steps"].dtype == torch.uint8
    with pytest.raises(ValueError, match=r"speech\.kernel has changed but none of \^text matches it"):
        compress_changes(weights, tuned, {"^text": 8})
    with pytest.raises(ValueError, match=r"speech\.kernel is to be kept in 5 bits but 4 or 8"):
        compress_changes(weights, tuned, 5)


def test_changes_that_do_not_fit_the_base_are_refused(weights, tuned):
    with pytest.raises(ValueError, match=r"other has changed but the base lacks it"):
        compress_changes(weights, tuned | {"other": torch.ones(3)}, 4)
    with pytest.raises(ValueError, match=r"speech\.bias is \(3,\) in the changes but \(96,\) in the base"):
        compress_changes(weights, tuned | {"speech.bias": torch.ones(3)}, 4)
    broken = tuned | {"text.matrix": tuned["text.matrix"] / 0}
    with pytest.raises(ValueError, match=r"text\.matrix of the tuned weights is not finite"):
        compress_changes(weights, broken, 4)
    changes = compress_changes(weights, tuned, 4)
    with pytest.raises(ValueError, match=r"speech\.kernel has changed but the base lacks it"):
        apply_changes({name: value for name, value in weights.items() if name != "speech.kernel"}, changes)
    with pytest.raises(ValueError, match=r"speech\.kernel is \(48, 128\) in the changes but \(48, 150\)"):
        apply_changes(weights | {"speech.kernel": torch.ones(48, 150)}, changes)
    with pytest.raises(ValueError, match=r"changes of speech\.matrix lack scale"):
        apply_changes(weights, {name: v for name, v in changes.items() if name != "speech.matrix.scale"})
    with pytest.raises(ValueError, match=r"hold speech\.bias\.c but know only"):
        apply_changes(weights, {"speech.bias.c": torch.ones(96)})


def test_files_hold_the_same_changes_and_replace_earlier_ones(weights, tuned, tmp_path, monkeypatch):
    changes = compress_changes(weights, tuned, 4)
    monkeypatch.setattr(module, "FILE_BYTES", 8000)
    save_changes(tmp_path, changes)
    several = sorted(file.name for file in tmp_path.iterdir())
    assert several[0] == f"changes-00001-of-{len(several):05d}.safetensors" and len(several) > 2
    again = load_changes(tmp_path)
    assert again.keys() == changes.keys()
    assert all(
        torch.equal(again[name], value) and again[name].dtype == value.dtype
        for name, value in changes.items()
    )

    (tmp_path / several[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"holds {len(several) - 1} of {len(several)} files"):
        load_changes(tmp_path)
    monkeypatch.setattr(module, "FILE_BYTES", 1 << 20)
    save_changes(tmp_path, changes)
    assert [file.name for file in tmp_path.iterdir()] == ["changes-00001-of-00001.safetensors"]
    monkeypatch.setattr(module, "FILE_BYTES", 100)
    with pytest.raises(ValueError, match=r"has 0\.0 MiB but a file takes 0; take fewer bits"):
        save_changes(tmp_path, changes)
    with pytest.raises(FileNotFoundError, match="holds 0 of 1 files"):
        load_changes(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint behind "training": every matrix and every vector changed."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("trained")
    weights = load_weights(tiny_checkpoint)
    for name, weight in weights.items():
        weights[name] = weight + (moved(*weight.shape) if weight.ndim > 1 else 0.01)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"logprob_threshold": -0.9}))
    return folder


def test_recogniser_and_text_encoder_come_from_different_folders(tiny_checkpoint, trained, tmp_path):
    parts = tiny_parts("whisper", tmp_path, seed=9)
    parts.text.save_pretrained(tmp_path / "text")  # with its pooler, as sentence-transformers writes it
    base, speech = load_weights(tiny_checkpoint), load_weights(trained)
    text = load_weights(tmp_path / "text")
    assert any(name.startswith("pooler.") for name in text)
    state = overlay([], trained, tmp_path / "text")
    assert state.keys() == base.keys() - {"logit_scale"}
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(state[f"text_model.{name}"], text[name])
    name = "speech_model.model.encoder.conv1.weight"
    assert torch.equal(state[name], speech[name])
    state = overlay([trained], text=tiny_checkpoint)
    name = "text_model.embeddings.word_embeddings.weight"
    assert torch.equal(state[name], base[name]) and "logit_scale" in state
    with pytest.raises(ValueError, match=r"text holds .* but no speech_model\.\*"):
        overlay(speech=tmp_path / "text")
    with pytest.raises(ValueError, match="no tuned weights are named"):
        overlay()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        overlay([tmp_path])


def test_script_writes_changes_and_what_is_lost(tiny_checkpoint, trained, tmp_path, capsys):
    folders = ["--base", tiny_checkpoint, "--tuned_speech", trained, "--tuned_text", trained]
    assert main([str(part) for part in (*folders, "--bits", 4, "--text_bits", 8, "--out", tmp_path)]) == 0
    report = json.loads((tmp_path / "changes.json").read_text())
    assert report["base_sha256"] == file_sha256(tiny_checkpoint / "model.safetensors")
    bits = {name: row["bits"] for name, row in report["weights"].items()}
    assert bits["text_model.encoder.layer.0.output.dense.weight"] == 8
    assert bits["speech_model.model.encoder.conv1.weight"] == 4
    table = capsys.readouterr().out
    assert render_changes(report) in table and "| text encoder |" in table
    base = load_weights(tiny_checkpoint)
    errors = change_errors(base, load_weights(trained), load_changes(tmp_path))
    assert errors == report["weights"]


@pytest.fixture(scope="module")
def release(tiny_checkpoint, trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "clsr-tiny-en"
    arguments = ["--base", tiny_checkpoint, "--tuned", trained, "--bits", 8, "--release", folder]
    main([str(part) for part in (*arguments, "--set", "tail_silence_s=0.5")])
    (folder / "curves.png").write_bytes(b"\x89PNG")
    return folder


def test_built_release_is_complete_and_has_the_trained_weights(release, tiny_checkpoint, trained, tmp_path):
    folder = build_release(release, tmp_path / "built", tiny_checkpoint)
    names = {file.name for file in folder.iterdir()}
    assert {*NEEDED, "curves.png", "build.json"} <= names
    assert not any(name.startswith("changes") for name in names)
    built, wanted = load_file(folder / "model.safetensors"), load_weights(trained)
    assert built.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(built[name], weight, atol=3e-4, rtol=0)
    recipe = json.loads((release / "build.json").read_text())
    assert recipe["sha256"] == file_sha256(folder / "model.safetensors")
    assert recipe.items() <= json.loads((folder / "build.json").read_text()).items()
    assert (folder / "README.md").read_text() == (release / "README.md").read_text()
    for file in folder.glob("*config*.json"):
        assert str(tmp_path.parent) not in file.read_text(), file.name
    assert [file.name for file in tmp_path.iterdir()] == ["built"]


def test_settings_of_a_release_reach_config_and_processor(release, tiny_checkpoint, tmp_path):
    """Those that are set, and those that the trained checkpoint has otherwise."""
    folder = build_release(release, tmp_path / "built", tiny_checkpoint)
    config = CLSRConfig.from_pretrained(folder)
    assert (config.tail_silence_s, config.logprob_threshold) == (0.5, -0.9)
    assert CLSRProcessor.from_pretrained(folder).feature_extractor.tail_silence_s == 0.5


def test_unknown_setting_is_refused_with_the_likely_name(tiny_checkpoint, trained, tmp_path):
    with pytest.raises(ValueError, match=r"tail_silence is set but .* did you mean tail_silence_s"):
        freeze_release(tmp_path / "release", tiny_checkpoint, load_weights(trained), 4, {"tail_silence": 1.0})


def test_card_of_a_new_release_has_the_places_of_its_tables(release):
    card = (release / "README.md").read_text()
    assert "# clsr-tiny-en" in card
    report = json.loads((release / "changes.json").read_text())
    for name, table in (("results", "Not measured yet."), ("changes", render_changes(report))):
        assert f"<!-- {name}: benchmarks/tables.py --write -->\n{table}\n<!-- end of {name} -->" in card


@pytest.mark.parametrize("part", ["sha256", "base"])
def test_other_weights_than_frozen_are_refused_and_leave_nothing(release, tiny_checkpoint, tmp_path, part):
    copy = tmp_path / "release"
    copy.mkdir()
    for file in release.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    recipe = json.loads((release / "build.json").read_text())
    recipe[part] = "0" * 64 if part == "sha256" else recipe["base"] | {"sha256": "0" * 64}
    (copy / "build.json").write_text(json.dumps(recipe))
    with pytest.raises(
        ValueError, match=r"has SHA-256 [0-9a-f]{64} but .*build\.json says 0{64}; install"
    ) as error:
        build_release(copy, tmp_path / "built", tiny_checkpoint)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["release"]


def test_folder_with_files_is_refused(release, tiny_checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        build_release(release, tmp_path, tiny_checkpoint)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_release_is_found_by_path_and_a_wrong_name_is_one_line(release, capsys):
    assert find_release(str(release)) == release
    assert clsr(["build", "--name", "clsr-absent"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "clsr-absent is neither among" in error and "checkpoints/clsr-absent of a clone" in error


def test_name_of_a_checkpoint_is_the_default_a_folder_or_a_hub_id(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("CLSR_CHECKPOINT", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert checkpoint_folder("default") == Path(tiny_checkpoint)
    assert checkpoint_folder("mine") == tmp_path / "mine"
    assert checkpoint_folder("org/clsr") == "org/clsr"


@pytest.mark.slow
def test_built_release_loads_where_the_package_is_not_installed(release, tiny_checkpoint, tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")
    folder = build_release(release, tmp_path / "built", tiny_checkpoint)
    done = run_clean(FOREIGN, folder, cwd=tmp_path, modules=tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.5 [")


@pytest.mark.slow
def test_release_of_the_default_checkpoint_is_built_by_name_once(
    default_checkpoint, tmp_path, monkeypatch, capsys
):
    """From the packages, whatever CLSR_CHECKPOINT says; again when the card changes."""
    weights = load_weights(default_checkpoint)
    name = "text_model.encoder.layer.0.output.dense.weight"
    tuned = {name: weights[name] + moved(*weights[name].shape)}
    release = tmp_path / "clsr-one-en"
    freeze_release(release, default_checkpoint, tuned, 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CLSR_CHECKPOINT", str(tmp_path))
    for builds in (1, 0):
        assert clsr(["build", "--name", str(release)]) == 0
        written = capsys.readouterr()
        assert written.err.count("building clsr-one-en") == builds
    folder = Path(written.out.splitlines()[-1])
    assert folder.parent == tmp_path / "cache" / "clsr" and folder.name.startswith("clsr-one-en-")
    built = load_weights(folder)
    torch.testing.assert_close(built.pop(name), tuned[name], atol=2e-4, rtol=0)
    assert all(torch.equal(weight, weights[other]) for other, weight in built.items())
    (release / "README.md").write_text("# Another card\n")
    assert clsr(["build", "--name", str(release)]) == 0
    assert (folder / "README.md").read_text() == "# Another card\n"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
