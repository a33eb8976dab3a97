"""Faster forms: float32 graphs give the model's own values, int8 comes near; a form is there whole or not at all."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import soundfile
import torch
from torch import nn

from modeling_clsr import CLSRModel, cli
from modeling_clsr.recognizer_clsr import encode_speech
from modeling_clsr.retrieval import Encoder, faster
from tests.test_cli import run
from tests.tiny_parts import noise_clips, tiny_parts

pytestmark = pytest.mark.slow  # tracing a graph takes seconds

EXACT = ("onnx", "openvino")
TEXTS = ["the sea", "and a bee on the road", "lamp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint with every form; tests must not change it."""
    folder = tmp_path_factory.mktemp("forms") / "tiny"
    parts = tiny_parts("whisper", folder.parent)
    parts.model().save_pretrained(folder)
    parts.processor().save_pretrained(folder)
    for form in faster.FILES:
        faster.export_form(folder, form)
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    return Encoder.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def forms(folder):
    return {form: Encoder.from_pretrained(folder, form=form) for form in faster.FORMS}


@pytest.mark.parametrize("form", EXACT)
def test_graphs_give_the_transcripts_times_and_vectors_of_the_model(plain, forms, form):
    clips = noise_clips(2.0, 1.1, 0.4)
    for (transcript, vector), (own, expected) in zip(
        forms[form].encode_passages(clips), plain.encode_passages(clips), strict=True
    ):
        assert transcript.text == own.text and transcript.words
        for word, other in zip(transcript.words, own.words, strict=True):
            assert (word.start, word.end) == (other.start, other.end)
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    np.testing.assert_allclose(forms[form].encode_texts(TEXTS), plain.encode_texts(TEXTS), atol=1e-5)


@pytest.mark.parametrize("form", EXACT)
def test_padding_does_not_change_the_states_of_a_graph(plain, forms, form):
    features = plain.processor(audio=noise_clips(2.0, 0.7), sampling_rate=16000)
    with torch.inference_mode():
        batch = encode_speech(forms[form].model.speech_model, *features.values())
        own = encode_speech(plain.model.speech_model, *features.values())
        short = features["input_features"][1:, :, : int(features["feature_attention_mask"][1].sum())]
        alone = encode_speech(forms[form].model.speech_model, short, None)
    assert torch.equal(batch.mask, own.mask)
    torch.testing.assert_close(batch.states[own.mask], own.states[own.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone.states[0], batch.states[1][batch.mask[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["int8", "onnx-int8"])
def test_int8_comes_near_and_is_int8(plain, forms, form):
    features = plain.processor(audio=noise_clips(2.0, 0.7), sampling_rate=16000)
    with torch.inference_mode():
        states = encode_speech(forms[form].model.speech_model, *features.values()).states
        own = encode_speech(plain.model.speech_model, *features.values()).states
    assert 0 < (states - own).norm() / own.norm() < 0.1
    cosines = (forms[form].encode_texts(TEXTS) * plain.encode_texts(TEXTS)).sum(axis=1)
    assert (cosines > 0.98).all()
    decoder = forms[form].model.speech_model
    assert not isinstance(decoder.proj_out, nn.Linear) and decoder.proj_out.weight().dtype == torch.qint8
    assert forms[form].encode_passages(noise_clips(1.0))[0][0].words


def test_bfloat16_comes_near_and_is_bfloat16(plain, forms):
    features = plain.processor(audio=noise_clips(2.0, 0.7), sampling_rate=16000)
    with torch.inference_mode():
        states = encode_speech(forms["bfloat16"].model.speech_model, *features.values()).states
        own = encode_speech(plain.model.speech_model, *features.values()).states
    assert states.dtype == torch.bfloat16 and 0 < (states - own).norm() / own.norm() < 0.03
    found, vectors = (
        forms["bfloat16"].encode_passages(noise_clips(1.0))[0],
        forms["bfloat16"].encode_texts(TEXTS),
    )
    assert found[0].words and found[1].dtype == vectors.dtype == np.float32
    assert ((vectors * plain.encode_texts(TEXTS)).sum(axis=1) > 0.999).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_loud_layers_stay_in_float32(folder, plain, tmp_path):
    names = [name for name, layer in plain.model.named_modules() if isinstance(layer, nn.Linear)]
    assert faster.loud_layers(plain.model, plain.processor, max_crest=1e9) == []
    read = [name for name in names if name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))]
    called = faster.loud_layers(plain.model, plain.processor, max_crest=0.0)
    assert {*called, *read} == {*names} and called == sorted(called)
    loud = "speech_model.model.encoder.layers.1.fc2"
    weight = plain.model.get_submodule(loud).weight
    faster._quantize_onnx(folder / "onnx" / "speech_encoder.onnx", tmp_path / "int8.onnx", [weight])
    graph = onnx.load(tmp_path / "int8.onnx").graph
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    kept = [
        stored[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored
    ]
    assert len(kept) == 1 and np.array_equal(kept[0].T, weight.detach().numpy())
    model = CLSRModel.from_pretrained(folder).eval()
    faster._quantize(model, [loud])
    stay = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
    assert sorted(stay) == sorted([loud, *read])


def test_threads_may_ask_at_the_same_time(plain, forms):
    expected = plain.encode_texts(TEXTS)
    for form in EXACT:
        with ThreadPoolExecutor(4) as pool:
            for vectors in pool.map(forms[form].encode_texts, [TEXTS] * 8):
                np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_replaced_weights_are_given_free(forms):
    for form in faster.FILES:
        parts = forms[form].model
        assert all(weight.is_meta for weight in parts.text_model.parameters())
        assert parts.device.type == "cpu"


def test_form_that_is_absent_unknown_or_of_other_weights_is_refused(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("onnx", "openvino"))
    with pytest.raises(FileNotFoundError, match=f"bare has no form onnx; .*`clsr build {bare} --form onnx`"):
        Encoder.from_pretrained(bare, form="onnx")
    with pytest.raises(ValueError, match="form is 'int4' but must be one of bfloat16, int8, onnx,"):
        Encoder.from_pretrained(bare, form="int4")
    with pytest.raises(ValueError, match="form is 'int8' but onnx, onnx-int8, openvino can be written"):
        faster.export_form(bare, "int8")
    with pytest.raises(ValueError, match="form is onnx but device is cuda"):
        Encoder.from_pretrained(bare, device="cuda", form="onnx")
    shutil.copytree(folder / "onnx", bare / "onnx")
    Encoder.from_pretrained(bare, form="onnx")
    model = CLSRModel.from_pretrained(bare)
    with torch.no_grad():
        model.logit_scale += 1.0
    model.save_pretrained(bare)
    with pytest.raises(
        ValueError, match=r"form onnx was made of \w{8} but .*bare is \w{8} now; make it again"
    ):
        Encoder.from_pretrained(bare, form="onnx")


def test_failed_export_leaves_what_was_there(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*")}
    quantize = faster._quantize_onnx

    def fail_at_the_second(source, target, loud):
        if "speech" in source.name:
            raise OSError("no space left on device")
        quantize(source, target, loud)

    monkeypatch.setattr(faster, "_quantize_onnx", fail_at_the_second)
    with pytest.raises(OSError, match="no space left"):
        faster.export_form(copy, "onnx-int8")
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*")} == before


def test_other_recognisers_have_no_forms(tmp_path):
    parts = tiny_parts("wav2vec2", tmp_path)
    parts.model().save_pretrained(tmp_path / "ctc")
    parts.processor().save_pretrained(tmp_path / "ctc")
    for make in (
        lambda: faster.export_form(tmp_path / "ctc", "onnx"),
        lambda: Encoder.from_pretrained(tmp_path / "ctc", form="int8"),
    ):
        with pytest.raises(ValueError, match="recogniser is wav2vec2 but only a pretrained whisper"):
            make()


def test_missing_package_names_its_extra(folder, monkeypatch):
    for package, form in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(
            ImportError, match=f'need {package}, which is not installed; install the "faster"'
        ):
            Encoder.from_pretrained(folder, form=form)


def test_command_line_adds_forms_and_uses_them(monkeypatch, capsys, tmp_path, folder):
    assert cli.FORMS == faster.FORMS
    part = shutil.copytree(folder, tmp_path / "part", ignore=shutil.ignore_patterns("*int8*", "openvino"))
    soundfile.write(tmp_path / "talk.wav", np.zeros(32000), 16000)
    index = ["index", tmp_path / "talk.wav", "--index", tmp_path / "i"]
    code, _, err = run(monkeypatch, capsys, *index, "--model", part, "--form", "openvino")
    assert code == 2 and len(err.strip().splitlines()) == 1 and f"`clsr build {part} --form openvino`" in err
    code, out, _ = run(monkeypatch, capsys, "build", part, "--form", "openvino")
    assert code == 0 and out == f"{part}\n" and json.loads((part / "openvino" / "openvino.json").read_text())
    assert run(monkeypatch, capsys, *index, "--model", part, "--form", "openvino")[0] == 0
    code, out, _ = run(
        monkeypatch, capsys, *index, "--form", "int8"
    )  # of the checkpoint that the index names
    assert code == 0 and "1 unchanged" in out
    search = ["search", "the sea", "--index", tmp_path / "i", "--form", "onnx-int8"]
    assert "has no form onnx-int8" in run(monkeypatch, capsys, *search)[2]
    code, _, err = run(monkeypatch, capsys, *index, "--form", "onnx", "--ray")
    assert code == 2 and "--form is onnx but --ray's workers run float32" in err
