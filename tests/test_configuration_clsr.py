"""CLSRConfig: what it refuses, and that nothing is lost on the way to JSON and back."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, Wav2Vec2Config, WhisperConfig

from modeling_clsr import CLSRConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max' but must be one of mean, cls"),
        ({"adaptor_type": "magic"}, "adaptor_type is 'magic' but must be one of"),
        ({"recognizer_type": "ctc"}, "recognizer_type is 'ctc' but blank_token_id is None"),
        ({"adaptor_temperature": 0.0}, "adaptor_temperature is 0.0 but must be above 0"),
        ({"max_text_tokens": 600}, "max_text_tokens is 600 but the text encoder has 512 positions"),
        (
            {"min_characters_per_second": 30},
            "min_characters_per_second is 30 but max_characters_per_second is 26.0",
        ),
    ],
)
def test_config_refuses_impossible_values_with_both_of_them(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        CLSRConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"max_audio_s": "29"}, {"sampling_rate": 16000.0}, {"redecode_padded": 1}]
)
def test_config_refuses_wrong_types(fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        CLSRConfig(**fields)


def test_config_takes_whole_numbers_for_seconds():
    assert CLSRConfig(max_audio_s=28).max_audio_s == 28


@pytest.mark.parametrize(
    "speech",
    [None, WhisperConfig(d_model=64), WhisperConfig(d_model=64).to_dict()],
    ids=["default", "object", "dict"],
)
def test_config_takes_part_configs_in_every_form(speech):
    config = CLSRConfig(speech_config=speech, text_config=BertConfig(hidden_size=48, num_attention_heads=4))
    assert config.speech_config.model_type == "whisper"
    assert config.embed_dim == config.hidden_size == 48


def test_config_refuses_unknown_part_type():
    with pytest.raises((ValueError, KeyError)):
        CLSRConfig(speech_config={"model_type": "gramophone"})


def test_config_survives_json():
    config = CLSRConfig(
        speech_config=Wav2Vec2Config(hidden_size=48),
        recognizer_type="ctc",
        blank_token_id=0,
        alignment_heads=[[1, 2]],
    )
    again = CLSRConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert again.to_dict() == config.to_dict()
