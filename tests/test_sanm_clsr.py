"""SAN-M encoder and decoder, alone and against FunASR."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig

from modeling_clsr.hub.funasr import convert_funasr_state_dict
from modeling_clsr.predictor_clsr import CIFPredictor
from modeling_clsr.sanm_clsr import SANMDecoder, SANMEncoder, sinusoids

GOLDEN = Path(__file__).parent / "golden"
SHARED = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "memory_kernel_size": 11,
    "memory_shift": 0,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "layer_norm_eps": 1e-12,
}


def tiny_encoder(**overrides) -> SANMEncoder:
    torch.manual_seed(0)
    settings = SHARED | {"input_size": 28, "num_hidden_layers": 3} | overrides
    return SANMEncoder(PreTrainedConfig(**settings)).eval()


def tiny_decoder(**overrides) -> SANMDecoder:
    torch.manual_seed(1)
    settings = SHARED | {"encoder_hidden_size": 16, "num_hidden_layers": 2} | overrides
    return SANMDecoder(PreTrainedConfig(**settings)).eval()


def batch_of_frames(lengths=(37, 23, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(-1)
    return torch.randn(len(lengths), max(lengths), 28), mask


def test_encoder_predictor_and_decoder_equal_funasr():
    golden = load_file(GOLDEN / "sanm.safetensors")
    state = convert_funasr_state_dict(
        {key.removeprefix("weights."): value for key, value in golden.items() if key.startswith("weights.")}
    )
    parts = {"encoder": tiny_encoder(), "predictor": CIFPredictor(16), "decoder": tiny_decoder()}
    parts["output_layer"] = nn.Linear(16, 24)
    nn.ModuleDict(parts).load_state_dict(state)
    frame_mask = torch.arange(37) < golden["lengths"].unsqueeze(-1)

    states = parts["encoder"](golden["features"], frame_mask).last_hidden_state
    torch.testing.assert_close(states, golden["encoder_states"], rtol=0, atol=1e-4)
    tokens = parts["predictor"](states, frame_mask)
    torch.testing.assert_close(tokens.token_states, golden["token_states"], rtol=0, atol=1e-4)
    decoded = parts["decoder"](tokens.token_states, tokens.token_mask, states, frame_mask).last_hidden_state
    logits = parts["output_layer"](decoded)[tokens.token_mask]
    torch.testing.assert_close(logits, golden["logits"][tokens.token_mask], rtol=0, atol=1e-4)


def test_large_configuration_has_the_parameters_of_paraformer():
    """FunASR also keeps a token table, which nothing reads when the sampler takes the output layer's rows."""
    large = SHARED | {"hidden_size": 512, "num_attention_heads": 4, "intermediate_size": 2048}
    with torch.device("meta"):
        parts = nn.ModuleList(
            [
                tiny_encoder(**large, input_size=560, num_hidden_layers=50),
                CIFPredictor(512),
                tiny_decoder(**large, encoder_hidden_size=512, num_hidden_layers=16),
                nn.Linear(512, 8404),
            ]
        )
        token_table = nn.Embedding(8404, 512)
    count = sum(parameter.numel() for parameter in parts.parameters())
    assert count == 215_781_685
    assert count + token_table.weight.numel() == 220_084_533


def test_first_position_code_is_that_of_position_one():
    codes = sinusoids(2, 4)
    expected = [[1.0, 1e-4], [2.0, 2e-4]]  # rates 1 and 1/10000
    angles = torch.tensor(expected)
    torch.testing.assert_close(codes, torch.cat([angles.sin(), angles.cos()], dim=-1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_item_alone_equals_item_in_a_padded_batch(attention):
    encoder = tiny_encoder(attn_implementation=attention)
    decoder = tiny_decoder(attn_implementation=attention)
    features, frame_mask = batch_of_frames()
    token_mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    tokens = torch.randn(3, 9, 16)
    states = encoder(features, frame_mask).last_hidden_state
    decoded = decoder(tokens, token_mask, states, frame_mask).last_hidden_state
    for item, (frames, units) in enumerate([(37, 9), (23, 4), (5, 1)]):
        alone = encoder(features[item : item + 1, :frames]).last_hidden_state
        torch.testing.assert_close(states[item, :frames], alone[0], rtol=0, atol=1e-5)
        assert not states[item, frames:].any()
        read = decoder(tokens[item : item + 1, :units], token_mask[item : item + 1, :units], alone)
        torch.testing.assert_close(decoded[item, :units], read.last_hidden_state[0], rtol=0, atol=1e-5)
        assert not decoded[item, units:].any()


def test_padding_may_hold_anything():
    encoder, decoder = tiny_encoder(), tiny_decoder()
    features, frame_mask = batch_of_frames()
    spoilt = features.masked_fill(~frame_mask.unsqueeze(-1), float("nan"))
    states = encoder(features, frame_mask).last_hidden_state
    assert torch.equal(states, encoder(spoilt, frame_mask).last_hidden_state)
    token_mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    tokens = torch.randn(3, 4, 16)
    loud = tokens.masked_fill(~token_mask.unsqueeze(-1), 1e4)
    decoded = [decoder(x, token_mask, states, frame_mask).last_hidden_state for x in (tokens, loud)]
    assert torch.equal(*decoded)


def test_eager_attention_equals_sdpa():
    features, frame_mask = batch_of_frames()
    token_mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    tokens = torch.randn(3, 4, 16)
    results = []
    for attention in ("sdpa", "eager"):
        states = tiny_encoder(attn_implementation=attention)(features, frame_mask).last_hidden_state
        decoder = tiny_decoder(attn_implementation=attention)
        results.append((states, decoder(tokens, token_mask, states, frame_mask).last_hidden_state))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_plain_config_object_gets_sdpa_and_masks_padding():
    config = SimpleNamespace(**SHARED, input_size=28, num_hidden_layers=2)
    torch.manual_seed(0)
    encoder = SANMEncoder(config).eval()
    assert config._attn_implementation == "sdpa"
    features, frame_mask = batch_of_frames((9, 4))
    alone = encoder(features[1:, :4]).last_hidden_state
    batch = encoder(features, frame_mask).last_hidden_state
    torch.testing.assert_close(batch[1, :4], alone[0], rtol=0, atol=1e-5)


def test_same_input_twice_gives_the_same_bytes():
    encoder, (features, frame_mask) = tiny_encoder(), batch_of_frames()
    states = [encoder(features, frame_mask).last_hidden_state for _ in range(2)]
    assert torch.equal(*states)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(dtype, attention):
    features, frame_mask = batch_of_frames()
    token_mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    tokens = torch.randn(3, 4, 16)
    encoder = tiny_encoder(attn_implementation=attention)
    decoder = tiny_decoder(attn_implementation=attention)
    exact = encoder(features, frame_mask).last_hidden_state
    states = encoder.to(dtype)(features, frame_mask).last_hidden_state
    decoded = decoder.to(dtype)(tokens, token_mask, states, frame_mask).last_hidden_state
    assert states.dtype == decoded.dtype == dtype
    assert decoded.isfinite().all()
    torch.testing.assert_close(states.float(), exact, rtol=0, atol=0.1)


def test_autocast_is_finite():
    features, frame_mask = batch_of_frames()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tiny_encoder()(features, frame_mask).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_item_without_a_single_frame_leaves_no_nan(attention):
    encoder = tiny_encoder(attn_implementation=attention)
    decoder = tiny_decoder(attn_implementation=attention)
    features, frame_mask = batch_of_frames((6, 0))
    states = encoder(features.requires_grad_(), frame_mask).last_hidden_state
    decoded = decoder(torch.randn(2, 3, 16), torch.tensor([[1, 1, 1], [0, 0, 0]]), states, frame_mask)
    decoded.last_hidden_state.sum().backward()
    assert states.isfinite().all() and features.grad.isfinite().all()


def test_decoder_of_no_tokens_returns_no_states():
    decoded = tiny_decoder()(
        torch.zeros(2, 0, 16), torch.zeros(2, 0, dtype=torch.bool), torch.randn(2, 7, 16)
    )
    assert decoded.last_hidden_state.shape == (2, 0, 16)


def test_decoder_reads_encoder_states_of_another_width():
    decoder = tiny_decoder(encoder_hidden_size=12)
    decoded = decoder(torch.randn(1, 3, 16), torch.ones(1, 3), torch.randn(1, 7, 12))
    assert decoded.last_hidden_state.shape == (1, 3, 16)


def test_gradient_checkpointing_changes_no_gradient():
    features, frame_mask = batch_of_frames()
    gradients = []
    for is_checkpointed in (False, True):
        encoder = tiny_encoder(dropout=0.0, attention_dropout=0.0).train()
        for layer in encoder.layers:
            layer.gradient_checkpointing = is_checkpointed
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        encoder(features, frame_mask).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    torch.testing.assert_close(*gradients)


def test_widths_that_do_not_fit_name_both():
    with pytest.raises(ValueError, match=r"80 wide.*28"):
        tiny_encoder()(torch.zeros(1, 4, 80))
    with pytest.raises(ValueError, match=r"8 wide.*16"):
        tiny_decoder()(torch.zeros(1, 4, 8), torch.ones(1, 4), torch.zeros(1, 4, 16))
    with pytest.raises(ValueError, match="16 is not a multiple of num_attention_heads 3"):
        tiny_encoder(num_attention_heads=3)
    with pytest.raises(ValueError, match="got 7"):
        sinusoids(3, 7)
