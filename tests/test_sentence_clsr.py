"""sentence-transformers: texts and clips, equal to the model's own vectors."""

import numpy as np
import pytest
import soundfile
import soxr
import torch

from modeling_clsr import CLSRModel, CLSRProcessor

from .tiny_parts import noise_clips

sentence_transformers = pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint):
    return sentence_transformers.SentenceTransformer(
        str(tiny_checkpoint), trust_remote_code=True, device="cpu"
    )


@pytest.fixture(scope="module")
def native(tiny_checkpoint):
    return CLSRModel.from_pretrained(tiny_checkpoint).eval(), CLSRProcessor.from_pretrained(tiny_checkpoint)


@torch.no_grad()
def heard(native, clip):
    model, processor = native
    return model.get_audio_features(**processor(audio=[clip], sampling_rate=16000)).pooler_output[0].numpy()


def test_texts_have_the_models_vectors(encoder, native):
    model, processor = native
    with torch.no_grad():
        expected = model.get_text_features(**processor(text=["a bee", "the sea and the road"])).pooler_output
    np.testing.assert_allclose(encoder.encode(["a bee", "the sea and the road"]), expected.numpy(), atol=1e-6)
    assert encoder.get_embedding_dimension() == 32


def test_every_form_of_a_clip_has_the_models_vector(encoder, native, tmp_path):
    (clip,) = noise_clips(0.7)
    file = tmp_path / "clip.wav"
    soundfile.write(file, clip, 16000, subtype="FLOAT")
    expected = heard(native, clip)
    forms = (
        clip,
        torch.from_numpy(clip),
        {"array": clip, "sampling_rate": 16000},
        str(file),
        {"audio": clip},
    )
    for form in forms:
        np.testing.assert_allclose(encoder.encode([form])[0], expected, atol=1e-6, err_msg=str(type(form)))
    np.testing.assert_allclose(encoder.encode(clip), expected, atol=1e-6)


def test_other_rates_are_resampled(encoder, native, tmp_path):
    slow = soxr.resample(noise_clips(0.7)[0], 16000, 8000).astype(np.float32)
    file = tmp_path / "slow.wav"
    soundfile.write(file, slow, 8000, subtype="FLOAT")
    expected = heard(native, soxr.resample(slow, 8000, 16000))
    np.testing.assert_allclose(encoder.encode([str(file)])[0], expected, atol=1e-6)
    np.testing.assert_allclose(
        encoder.encode([{"array": slow, "sampling_rate": 8000}])[0], expected, atol=1e-6
    )


def test_missing_file_is_not_embedded_as_its_name(encoder):
    with pytest.raises(FileNotFoundError, match=r"gone.wav is not there"):
        encoder.encode(["gone.wav"])
    with pytest.raises(FileNotFoundError, match=r"gone.m4a is not there"):
        encoder.encode(["gone.m4a"])


def test_containers_are_read_by_pyav(encoder, native, tmp_path):
    av = pytest.importorskip("av", reason="the extra audio is not installed")
    (clip,) = noise_clips(1.0)
    with av.open(str(tmp_path / "clip.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((clip * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    vector = encoder.encode([str(tmp_path / "clip.m4a")])[0]
    assert vector.shape == (32,) and np.isclose(np.linalg.norm(vector), 1.0, atol=1e-5)


def test_texts_and_clips_in_one_batch_are_refused(encoder):
    with pytest.raises(ValueError, match=r"1 clips and 1 texts|separately"):
        encoder.encode([noise_clips(0.5)[0], "a bee"])


def test_prompts_stand_before_texts(encoder):
    with_prompt = encoder.encode(["sea"], prompt="the bee and the ")
    np.testing.assert_allclose(with_prompt, encoder.encode(["the bee and the sea"]), atol=1e-6)


def test_saved_again_the_folder_is_whole_and_the_vectors_equal(encoder, tiny_checkpoint, tmp_path):
    encoder.save(str(tmp_path / "again"))
    first = {file.name for file in tiny_checkpoint.iterdir()} - {"README.md", "example.opus"}
    assert first <= {file.name for file in (tmp_path / "again").iterdir()}
    again = sentence_transformers.SentenceTransformer(
        str(tmp_path / "again"), trust_remote_code=True, device="cpu"
    )
    clip = noise_clips(0.6)[0]
    np.testing.assert_array_equal(again.encode(["a bee"]), encoder.encode(["a bee"]))
    np.testing.assert_array_equal(again.encode([clip]), encoder.encode([clip]))
