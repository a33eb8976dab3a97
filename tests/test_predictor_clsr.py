"""CIF predictor: counts, vectors and spans of tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modeling_clsr.hub.funasr import convert_funasr_state_dict
from modeling_clsr.predictor_clsr import CIFPredictor, integrate_and_fire, quantity_loss

from .reference import walk_and_fire
from .test_sanm_clsr import GOLDEN

FIGURE_4 = torch.tensor([[0.8, 0.3, 0.4, 0.4, 0.1]])


def test_cif_splits_the_weights_of_figure_4_into_two_tokens():
    states, mask, spans = integrate_and_fire(torch.eye(5).unsqueeze(0), FIGURE_4)
    expected = torch.tensor([[0.8, 0.2, 0, 0, 0], [0, 0.1, 0.4, 0.4, 0.1]])
    torch.testing.assert_close(states[0], expected)
    assert mask.tolist() == [[True, True]]
    torch.testing.assert_close(spans[0], torch.tensor([[0, 1 + 2 / 3], [1 + 2 / 3, 5.0]]))


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, int | None, float, float]:
    """Return frames, weights, target count, threshold and tail: quiet, loud and silent stretches."""
    generator = torch.Generator().manual_seed(seed)
    num_frames = int(torch.randint(1, 14, (), generator=generator))
    frames = torch.randn(num_frames, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(num_frames, generator=generator, dtype=torch.float64) * (0.3, 1.0, 3.2)[seed % 3]
    weights *= torch.rand(num_frames, generator=generator) > 0.2 * (seed % 2)
    target = (
        int(torch.randint(1, 9, (), generator=generator)) if seed % 4 == 0 and weights.sum() > 0 else None
    )
    return frames, weights, target, (1.0, 0.7)[seed % 5 == 0], (0.0, 0.45)[seed % 7 > 3]


def test_cif_equals_the_frame_by_frame_walk_on_1000_cases_gradients_too():
    for seed in range(1000):
        frames, weights, target, threshold, tail = random_case(seed)
        frames.requires_grad_(), weights.requires_grad_()
        slow = walk_and_fire(frames, weights, target, threshold, tail)
        count = None if target is None else torch.tensor([target])
        fast, mask, _ = integrate_and_fire(frames.unsqueeze(0), weights.unsqueeze(0), count, threshold, tail)
        assert mask.sum() == len(slow) == fast.shape[1], seed
        torch.testing.assert_close(fast[0], slow, rtol=0, atol=1e-9, msg=f"case {seed}")
        if len(slow):
            pull = torch.randn(slow.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            expected = torch.autograd.grad((slow * pull).sum(), (frames, weights), materialize_grads=True)
            gradients = torch.autograd.grad((fast[0] * pull).sum(), (frames, weights))
            torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-8, msg=f"case {seed}")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([torch.float32, torch.float64]))
def test_token_count_is_the_floor_of_the_mass_and_spans_are_ordered(seed, num_frames, dtype):
    torch.manual_seed(seed)
    weights = torch.rand(1, num_frames, dtype=dtype) * 1.5
    mass = weights.double().sum()
    if (mass - mass.round()).abs() < 1e-4:
        return
    states, mask, spans = integrate_and_fire(torch.randn(1, num_frames, 2, dtype=dtype), weights)
    assert mask.sum() == mass.floor() == states.shape[1]
    flat = spans[0].flatten()
    assert (flat.diff() >= 0).all() and (flat >= 0).all() and (flat <= num_frames).all()
    assert (spans[0, :, 1] > spans[0, :, 0]).all()


def test_training_fires_exactly_the_target_count():
    torch.manual_seed(0)
    weights = torch.rand(64, 90) * (torch.rand(64, 90) > 0.5)
    counts = torch.randint(0, 40, (64,))
    states, mask, _ = integrate_and_fire(torch.ones(64, 90, 1), weights, counts)
    assert mask.sum(dim=-1).tolist() == counts.tolist()
    torch.testing.assert_close(
        states[mask], torch.ones(int(counts.sum()), 1)
    )  # every token has the whole mass


@pytest.mark.parametrize(("rest", "num_tokens"), [(0.54, 0), (0.56, 1)])
def test_a_rest_of_at_least_055_becomes_a_token(rest, num_tokens):
    _, mask, _ = integrate_and_fire(torch.ones(1, 2, 1), torch.tensor([[rest / 2, rest / 2]]), tail=0.45)
    assert mask.sum() == num_tokens


def test_rounding_below_a_whole_number_loses_no_token():
    weights = torch.full((1, 30), 0.1, dtype=torch.float64)  # their float64 sum is 2.9999999999999996
    assert integrate_and_fire(torch.ones(1, 30, 1), weights)[1].sum() == 3


def test_several_tokens_fire_in_one_frame():
    states, _, spans = integrate_and_fire(torch.eye(3).unsqueeze(0), torch.tensor([[0.5, 3.0, 0.5]]))
    expected = torch.tensor([[0.5, 0.5, 0], [0, 1.0, 0], [0, 1.0, 0], [0, 0.5, 0.5]])
    torch.testing.assert_close(states[0], expected)
    torch.testing.assert_close(
        spans[0], torch.tensor([[0, 1 + 1 / 6], [1 + 1 / 6, 1.5], [1.5, 1 + 5 / 6], [1 + 5 / 6, 3]])
    )


def test_silent_frames_around_a_word_are_outside_its_span():
    spans = integrate_and_fire(torch.ones(1, 8, 1), torch.tensor([[0, 0, 0.5, 0.5, 0, 0, 1.0, 0]]))[2]
    assert spans.tolist() == [[[2, 4], [6, 7]]]


def test_silence_gives_no_token():
    states, mask, spans = integrate_and_fire(torch.ones(2, 5, 4), torch.zeros(2, 5), tail=0.45)
    assert states.shape == (2, 0, 4) and mask.shape == (2, 0) and spans.shape == (2, 0, 2)


def test_silence_with_a_transcript_trains_without_infinite_gradients():
    weights = torch.zeros(1, 4, requires_grad=True)
    states, mask, spans = integrate_and_fire(torch.ones(1, 4, 2), weights, torch.tensor([3]))
    assert mask.all() and spans.isfinite().all() and not states.any()
    states.sum().backward()
    assert weights.grad.isfinite().all()


def test_wrong_number_of_weights_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 4\)"):
        integrate_and_fire(torch.ones(2, 5, 1), torch.ones(2, 4))


def golden_predictor(golden):
    state = convert_funasr_state_dict(
        {key.removeprefix("weights."): value for key, value in golden.items() if key.startswith("weights.")}
    )
    predictor = CIFPredictor(16)
    predictor.load_state_dict(
        {
            key.removeprefix("predictor."): value
            for key, value in state.items()
            if key.startswith("predictor.")
        }
    )
    return predictor


def test_cif_predictor_equals_funasr():
    golden = load_file(GOLDEN / "sanm.safetensors")
    predictor = golden_predictor(golden)
    frame_mask = torch.arange(37) < golden["lengths"].unsqueeze(-1)
    output = predictor(golden["encoder_states"], frame_mask)
    assert output.token_mask.sum(dim=-1).tolist() == golden["num_tokens"].tolist()
    torch.testing.assert_close(output.token_states, golden["token_states"], rtol=0, atol=1e-5)
    weights = output.firing_weights + torch.where(
        torch.arange(37) == golden["lengths"].unsqueeze(-1), 0.45, 0.0
    )
    torch.testing.assert_close(weights, golden["weights_with_tail"][:, :37], rtol=0, atol=1e-6)


def test_cif_predictor_equals_funasr_in_training_but_keeps_the_last_token():
    """FunASR loses the last token of clip 0: its scaled weights add up to a rounding error below 11."""
    golden = load_file(GOLDEN / "sanm.safetensors")
    frame_mask = torch.arange(37) < golden["lengths"].unsqueeze(-1)
    output = golden_predictor(golden)(golden["encoder_states"], frame_mask, golden["target_lengths"])
    expected = golden["target_token_states"]
    fired = expected.any(dim=-1)
    assert fired.sum(dim=-1).tolist() == [10, 7] and output.token_mask.sum(dim=-1).tolist() == [11, 7]
    torch.testing.assert_close(output.token_states[fired], expected[fired], rtol=0, atol=1e-5)
    assert output.token_states[0, 10].any()
    torch.testing.assert_close(output.token_counts, golden["token_counts"])


def random_predictor(tokens_per_frame_bias: float = 0.0) -> CIFPredictor:
    torch.manual_seed(3)
    predictor = CIFPredictor(8)
    torch.nn.init.constant_(predictor.projection.bias, tokens_per_frame_bias)
    return predictor


def test_cif_item_alone_equals_item_in_a_padded_batch():
    predictor = random_predictor()
    frames = torch.randn(3, 20, 8)
    lengths = torch.tensor([20, 13, 6])
    mask = torch.arange(20) < lengths.unsqueeze(-1)
    for counts in (None, torch.tensor([9, 5, 4])):
        batch = predictor(frames, mask, counts)
        for item, length in enumerate(lengths.tolist()):
            alone = predictor(
                frames[item : item + 1, :length], None, None if counts is None else counts[item : item + 1]
            )
            num_tokens = alone.token_states.shape[1]
            assert batch.token_mask[item].sum() == num_tokens
            close = {"rtol": 0, "atol": 1e-5}
            torch.testing.assert_close(batch.token_states[item, :num_tokens], alone.token_states[0], **close)
            torch.testing.assert_close(batch.token_spans[item, :num_tokens], alone.token_spans[0], **close)
            torch.testing.assert_close(batch.token_counts[item], alone.token_counts[0], **close)
            assert not batch.token_states[item, num_tokens:].any()


def test_cif_ignores_what_lies_in_the_padding():
    predictor = random_predictor()
    frames = torch.randn(1, 9, 8)
    mask = torch.arange(9).unsqueeze(0) < 6
    spoilt = frames.masked_fill(~mask.unsqueeze(-1), float("nan"))
    assert torch.equal(predictor(frames, mask).token_states, predictor(spoilt, mask).token_states)


def test_cif_runs_in_float32_under_autocast():
    predictor = random_predictor()
    frames = torch.randn(2, 300, 8)
    plain = predictor(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = predictor(frames)
    assert mixed.firing_weights.dtype == torch.float32
    assert torch.equal(mixed.firing_weights, plain.firing_weights)
    assert torch.equal(mixed.token_states, plain.token_states)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cif_is_finite_with_half_precision_weights(dtype):
    output = random_predictor().to(dtype)(torch.randn(2, 30, 8, dtype=dtype))
    assert output.token_states.isfinite().all() and output.token_mask.any()


def test_cif_predictor_hears_nothing_where_all_weights_fall_below_the_noise():
    predictor = CIFPredictor(8, noise_threshold=1.0)
    assert predictor(torch.randn(2, 10, 8)).token_states.shape == (2, 0, 8)


def test_quantity_loss_is_the_error_per_token():
    loss = quantity_loss(torch.tensor([3.5, 8.0]), torch.tensor([4, 6]))
    torch.testing.assert_close(loss, torch.tensor(0.25))
