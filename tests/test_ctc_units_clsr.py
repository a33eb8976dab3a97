"""Characters under word pieces."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import WhisperConfig

from modeling_clsr import CLSRConfig, CLSRModel, CLSRProcessor
from modeling_clsr.ctc_units_clsr import NUM_UNITS, tokens_of_units, units_of_tokens
from tests.test_parallel_clsr import sanm_decoder
from tests.tiny_parts import WHISPER_SIZES, noise_clips, tiny_bert


@pytest.fixture
def made():
    """A CTC predictor over characters on an encoder with 20 ms frames."""
    torch.manual_seed(0)
    text, tokenizer = tiny_bert()
    speech = WhisperConfig(**WHISPER_SIZES, vocab_size=60, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    model = CLSRModel.from_pretrained_parts(
        speech,
        text,
        text_tokenizer=tokenizer,
        decoder_type="sanm",
        decoder_config=sanm_decoder(),
        predictor_type="ctc",
        ctc_units="characters",
        adaptor_type="vq",
    )
    return model, CLSRProcessor.from_pretrained_parts(speech, text, tokenizer, parallel=True), tokenizer


def test_tokens_are_spelt_with_the_space_before_a_word(made):
    model, _, tokenizer = made
    ids = tokenizer(["the sea", "bees"], add_special_tokens=False)["input_ids"]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], True, -100)
    units, counts = units_of_tokens(padded, model.strings)
    assert bytes(units[0][units[0] >= 0].tolist()) == b" the sea"
    assert counts[0].tolist()[:2] == [4, 4]
    assert counts.sum(dim=1).tolist() == (units >= 0).sum(dim=1).tolist()


@pytest.mark.parametrize("text", [" the sea and the road", "bees", "  lamp  ", "a ü b", ""])
def test_path_is_read_and_cut_by_the_tokenizer(made, text):
    model, _, tokenizer = made
    path = torch.tensor([list(text.encode())], dtype=torch.long).reshape(1, -1)
    tokens, counts = tokens_of_units(path, model.strings)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokens[0].tolist() == expected
    assert int(counts.sum()) == (len(text.encode()) if expected else 0)


def test_unreadable_bytes_do_not_crash(made):
    model, _, _ = made
    tokens, counts = tokens_of_units(torch.tensor([[0xFF, 0xC3, 0x20, 0x61]]), model.strings)
    assert int(counts.sum()) == 4 and (tokens >= 0).any()


def test_losses_reach_every_weight_and_inference_hears_tokens(made):
    model, processor, tokenizer = made
    batch = processor(text=["the sea", "a bee"], audio=noise_clips(1.0, 0.8), sampling_rate=16000)
    ids = tokenizer(["the sea", "a bee"], add_special_tokens=False, padding=True, return_tensors="pt")
    model.train()
    output = model(
        **batch,
        transcript_ids=ids["input_ids"],
        transcript_mask=ids["attention_mask"],
        return_loss=True,
    )
    assert output.token_logits.shape[:2] == ids["input_ids"].shape
    assert model.speech_model.predictor.head.out_features == NUM_UNITS + 1
    output.loss.backward()
    assert [
        name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
    ] == []
    with torch.no_grad():
        heard = model.eval().get_audio_features(batch["input_features"], batch["feature_attention_mask"])
    assert torch.isfinite(heard.pooler_output).all()


def test_units_without_a_ctc_predictor_are_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="'characters' but predictor_type is None"):
        CLSRConfig(ctc_units="characters")
