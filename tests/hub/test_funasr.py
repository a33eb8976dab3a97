"""Conversion of FunASR Paraformer folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from modeling_clsr import CLSRModel
from modeling_clsr.hub.funasr import (
    convert_funasr_state_dict,
    load_funasr_checkpoint,
    model_from_funasr,
    read_cmvn,
)
from modeling_clsr.predictor_clsr import CIFPredictor
from modeling_clsr.sanm_clsr import SANMDecoder, SANMEncoder

from ..tiny_parts import tiny_bert

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = """
encoder_conf: {attention_heads: 2, sanm_shfit: 0, attention_dropout_rate: 0.2}
decoder_conf: {attention_heads: 2, sanm_shfit: 0}
predictor_conf: {l_order: 1, r_order: 1, tail_threshold: 0.5}
"""


def golden_weights() -> dict[str, torch.Tensor]:
    golden = load_file(GOLDEN / "sanm.safetensors")
    return {
        key.removeprefix("weights."): value for key, value in golden.items() if key.startswith("weights.")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as FunASR's trainer leaves it, with the levels around the weights."""
    weights = {f"module.{key}": value for key, value in golden_weights().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "model.pt")
    (tmp_path / "tokens.json").write_text(json.dumps([f"token{i}" for i in range(24)]), encoding="utf-8")
    shutil.copy(GOLDEN / "am.mvn", tmp_path)
    return tmp_path


def test_converted_checkpoint_computes_what_funasr_computes(folder):
    (folder / "config.yaml").write_text(SETTINGS, encoding="utf-8")
    checkpoint = load_funasr_checkpoint(folder)
    encoder = SANMEncoder(PreTrainedConfig(**checkpoint.encoder_config)).eval()
    decoder = SANMDecoder(PreTrainedConfig(**checkpoint.decoder_config)).eval()
    predictor = CIFPredictor(**checkpoint.predictor_config)
    for name, part in (("encoder", encoder), ("predictor", predictor), ("decoder", decoder)):
        part.load_state_dict(checkpoint.part(name))  # strict: every weight has its place
    golden = load_file(GOLDEN / "sanm.safetensors")
    frame_mask = torch.arange(37) < golden["lengths"].unsqueeze(-1)
    states = encoder(golden["features"], frame_mask).last_hidden_state
    torch.testing.assert_close(states, golden["encoder_states"], rtol=0, atol=1e-4)
    tokens, token_mask = golden["token_states"], torch.arange(11) < golden["num_tokens"].unsqueeze(-1)
    decoded = decoder(tokens, token_mask, states, frame_mask).last_hidden_state
    output = checkpoint.part("output_layer")
    logits = torch.nn.functional.linear(decoded, output["weight"], output["bias"])
    torch.testing.assert_close(logits[token_mask], golden["logits"][token_mask], rtol=0, atol=1e-4)


def test_sizes_come_from_the_weights_and_choices_from_config_yaml(folder):
    assert load_funasr_checkpoint(folder).encoder_config["num_attention_heads"] == 4  # FunASR's usual number
    (folder / "config.yaml").write_text(SETTINGS, encoding="utf-8")
    checkpoint = load_funasr_checkpoint(folder)
    sizes = ("input_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [checkpoint.encoder_config[name] for name in sizes] == [28, 16, 3, 2, 32]
    assert [checkpoint.decoder_config[name] for name in sizes[1:]] == [16, 2, 2, 32]
    assert (
        checkpoint.encoder_config["memory_kernel_size"]
        == checkpoint.decoder_config["memory_kernel_size"]
        == 11
    )
    assert checkpoint.encoder_config["attention_dropout"] == 0.2
    assert checkpoint.predictor_config["tail_threshold"] == 0.5
    assert checkpoint.tokens[
        3
    ] == "token3" and checkpoint.cmvn_shift.shape == checkpoint.cmvn_scale.shape == (560,)


def test_weights_of_other_uses_are_left_out():
    extra = {"ctc.ctc_lo.weight": torch.zeros(24, 16), "predictor.upsample_cnn.weight": torch.zeros(1)}
    assert (
        convert_funasr_state_dict(golden_weights() | extra).keys()
        == convert_funasr_state_dict(golden_weights()).keys()
    )
    assert "decoder.embed.0.weight" in golden_weights()


def test_weight_without_a_place_is_named():
    with pytest.raises(ValueError, match=r"decoder\.decoders2\.0\.norm1\.weight"):
        convert_funasr_state_dict(golden_weights() | {"decoder.decoders2.0.norm1.weight": torch.zeros(16)})


def test_missing_file_is_named(folder):
    (folder / "am.mvn").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no am\.mvn"):
        load_funasr_checkpoint(folder)


def test_vocabulary_of_another_size_names_both(folder):
    (folder / "tokens.json").write_text('["a", "b"]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"2 tokens.*24 rows"):
        load_funasr_checkpoint(folder)


def test_damaged_statistics_are_refused(tmp_path):
    (tmp_path / "am.mvn").write_text(
        "<Nnet>\n<AddShift> 2 2\n<LearnRateCoef> 0 [ 1.0 2.0 ]\n</Nnet>", encoding="utf-8"
    )
    with pytest.raises(ValueError, match="no <Rescale>"):
        read_cmvn(tmp_path / "am.mvn")


@pytest.fixture
def small_folder(folder: Path) -> Path:
    """The same with statistics as wide as the golden encoder's frames."""
    row = "<LearnRateCoef> 0 [ {} ]"
    shift, scale = (row.format(" ".join(f"{i * factor:.3f}" for i in range(28))) for factor in (0.5, 0.1))
    text = f"<Nnet>\n<AddShift> 28 28\n{shift}\n<Rescale> 28 28\n{scale}\n</Nnet>\n"
    (folder / "am.mvn").write_text(text, encoding="utf-8")
    return folder


def test_statistics_of_another_width_are_refused(folder):
    text, tokenizer = tiny_bert()
    with pytest.raises(ValueError, match=r"am\.mvn is 560 wide but the encoder reads frames 28 wide"):
        model_from_funasr(folder, text, tokenizer)


@torch.no_grad()
def test_model_keeps_funasrs_weights_and_has_a_new_output_layer(small_folder, tmp_path):
    (small_folder / "config.yaml").write_text(SETTINGS, encoding="utf-8")
    text, tokenizer = tiny_bert()
    model = model_from_funasr(small_folder, text, tokenizer)
    recognizer, golden = model.speech_model, load_file(GOLDEN / "sanm.safetensors")
    (
        recognizer.cmvn_shift.zero_(),
        recognizer.cmvn_scale.fill_(1.0),
    )  # the golden features are normalised already
    mask = (torch.arange(37) < golden["lengths"].unsqueeze(-1)).long()
    states = recognizer.encode(golden["features"], mask).states
    torch.testing.assert_close(states, golden["encoder_states"], rtol=0, atol=1e-4)
    assert recognizer.output_layer.weight.shape[0] == len(tokenizer)
    assert model.config.tail_threshold == 0.5 == recognizer.predictor.tail_threshold
    model.save_pretrained(tmp_path / "saved")
    again = CLSRModel.from_pretrained(tmp_path / "saved")
    first, second = (m.get_audio_features(golden["features"], mask).pooler_output for m in (model, again))
    assert torch.equal(first, second)


def test_model_carries_funasrs_statistics(small_folder):
    text, tokenizer = tiny_bert()
    shift, scale = read_cmvn(small_folder / "am.mvn")
    recognizer = model_from_funasr(small_folder, text, tokenizer).speech_model
    assert torch.equal(recognizer.cmvn_shift, shift) and torch.equal(recognizer.cmvn_scale, scale)
