"""The pipelines: speech-retrieval by name and by model alone, zero-shot classification of audio."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from modeling_clsr import CLSRModel, CLSRProcessor

from .tiny_parts import noise_clips


@pytest.fixture(scope="module", params=["by name", "by model"])
def pipe(request, tiny_checkpoint):
    task = ("speech-retrieval",) if request.param == "by name" else ()
    return pipeline(*task, model=str(tiny_checkpoint), trust_remote_code=True, device="cpu")


def test_clips_come_ranked_with_words_and_times(pipe, tiny_checkpoint, tmp_path):
    model, processor = (
        CLSRModel.from_pretrained(tiny_checkpoint),
        CLSRProcessor.from_pretrained(tiny_checkpoint),
    )
    clips = [*noise_clips(0.5, 0.9), str(tmp_path / "clip.wav")]
    soundfile.write(tmp_path / "clip.wav", noise_clips(1.2, seed=3)[0], 16000, subtype="FLOAT")
    found = pipe("Where is the bee?", clips)
    waveforms = [processor.read_audio(clip) for clip in clips]
    with torch.no_grad():
        question = model.get_text_features(**processor(text="Where is the bee?")).pooler_output[0]
        heard = [model.get_audio_features(**processor(audio=[w], sampling_rate=16000)) for w in waveforms]
    expected = sorted(range(3), key=lambda clip: -float(question @ heard[clip].pooler_output[0]))
    assert [entry["clip"] for entry in found] == expected
    for entry in found:
        audio = heard[entry["clip"]]
        assert entry["score"] == pytest.approx(float(question @ audio.pooler_output[0]), abs=1e-6)
        assert entry["text"] == audio.transcripts[0].text
        assert entry["words"] == [vars(word) for word in audio.transcripts[0].words]
    assert pipe("Where is the bee?", clips, top_k=1) == found[:1]
    assert pipe({"question": "Where is the bee?", "clips": clips}) == found


@pytest.mark.parametrize(
    ("question", "clips", "settings", "message"),
    [
        ("a", [], {}, "clips are .* but a list of at least one clip is needed"),
        ("", noise_clips(0.5), {}, "text 0 is '' but a question is needed"),
        ("a", noise_clips(0.5), {"top_k": 0}, "top_k is 0 but must be 1 or more"),
        ("a", noise_clips(0.5), {"top_n": 3}, "the pipeline got top_n, which it does not take"),
    ],
)
def test_wrong_input_is_named(pipe, question, clips, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe(question, clips, **settings)


def test_zero_shot_classification_scores_labels_by_the_models_vectors(tiny_checkpoint):
    model, processor = (
        CLSRModel.from_pretrained(tiny_checkpoint),
        CLSRProcessor.from_pretrained(tiny_checkpoint),
    )
    pipe = pipeline(
        "zero-shot-audio-classification", model=str(tiny_checkpoint), trust_remote_code=True, device="cpu"
    )
    (clip,) = noise_clips(0.8)
    labels = ["the bee", "a road and a lamp", "sea"]
    found = pipe(clip, candidate_labels=labels, hypothesis_template="{}")
    with torch.no_grad():
        output = model(**processor(text=labels, audio=[clip], sampling_rate=16000))
    expected = dict(zip(labels, output.logits_per_audio[0].softmax(dim=0).tolist(), strict=True))
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in found} == expected
    assert np.isclose(sum(entry["score"] for entry in found), 1.0, atol=1e-5)
