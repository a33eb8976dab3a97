"""CLSRProcessor: one call for both sides, the names of its outputs, what it refuses."""

import pytest

from .tiny_parts import noise_clips, tiny_parts


@pytest.fixture
def processor(tmp_path):
    return tiny_parts("whisper", tmp_path).processor()


def test_text_and_audio_in_one_call_keep_their_masks_apart(processor):
    batch = processor(text=["a bee", "the sea road"], audio=noise_clips(1.0, 0.5), sampling_rate=16000)
    assert {"input_ids", "attention_mask", "input_features", "feature_attention_mask"} <= set(batch)
    assert batch["attention_mask"].shape == batch["input_ids"].shape
    assert batch["feature_attention_mask"].shape == (2, batch["input_features"].shape[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "text is None and audio is None"),
        ({"text": ""}, "text 0 is '' but a question is needed"),
        ({"text": ["a", None]}, "text 1 is None but a question is needed"),
        ({"text": "a " * 600}, "text 0 has 602 tokens but the text encoder takes 512; shorten it"),
        ({"audio": noise_clips(0.5)}, "sampling_rate is missing but the model expects 16000 Hz"),
        (
            {"audio": noise_clips(0.5), "sampling_rate": 8000},
            "sampled at 8000 Hz but the model expects 16000 Hz",
        ),
    ],
)
def test_bad_input_is_refused_with_both_values(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_unknown_argument_is_refused(processor):
    with pytest.raises(TypeError, match="audios"):
        processor(audios=noise_clips(0.5), sampling_rate=16000)


def test_long_text_is_cut_only_when_asked(processor):
    assert processor(text="a " * 600, truncation=True)["input_ids"].shape == (1, 512)


def test_max_length_fills_the_window(processor):
    batch = processor(audio=noise_clips(1.0), sampling_rate=16000, padding="max_length")
    assert batch["input_features"].shape == (1, 80, 3000)


def test_saved_processor_is_one_file_and_gives_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert "processor_config.json" in names and "preprocessor_config.json" not in names
    again = type(processor).from_pretrained(tmp_path / "saved")
    audio = noise_clips(1.0)
    first = processor(text="a bee", audio=audio, sampling_rate=16000)
    second = again(text="a bee", audio=audio, sampling_rate=16000)
    assert all((first[name] == second[name]).all() for name in first)
    assert again.tokenizer.model_max_length == 512
