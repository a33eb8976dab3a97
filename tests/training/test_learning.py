"""Models that learn: a tiny one of each predictor knows its sentences by heart."""

import shutil

import pytest
import torch
from transformers import TrainerCallback, WhisperConfig

from modeling_clsr import CLSRModel, CLSRProcessor, SANMConfig
from modeling_clsr.data.clips import write_changed
from modeling_clsr.data.manifest import read_manifest
from modeling_clsr.data.synthesis import Utterance, speak_manifest
from modeling_clsr.training.build import Built, fill_statistics
from tests.tiny_parts import SIZES, WHISPER_SIZES, tiny_bert
from tests.training.tiny_runs import trainer

SENTENCES = """
the old bridge was closed after the flood
a small dog turned the iron wheel in the kitchen
bees keep the hive warm during the winter
two of the lamps were painted red
the county will pay half of the money in september
never touch the disc with your fingers
a steel ruler shows how worn the chain is
the lens floated in a bath of mercury
smoke hides the scent of the guard bees
the schools go back after the summer
the keeper could move two tons with one finger
the museum opens at nine in the morning
every sunday the dogs were paid in bones
the second offer came from a firm in leeds
pull the sting out with your nail
rings of glass bent the light into one beam
""".strip().splitlines()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """16 sentences spoken by flite; the question to each is its first half."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    folder = tmp_path_factory.mktemp("spoken")
    halves = [" ".join(line.split()[: len(line.split()) // 2 + 1]) for line in SENTENCES]
    utterances = [
        Utterance(f"s{n}", line, questions=(half,))
        for n, (line, half) in enumerate(zip(SENTENCES, halves, strict=True))
    ]
    rows = read_manifest(speak_manifest(utterances, folder, ["flite/slt", "flite/rms"]))
    # As FLAC, which is decoded in a fraction of the time: every clip is read hundreds of times.
    return write_changed(rows, lambda _, waveform: waveform, folder / "flac")


class ByHeart(TrainerCallback):
    """Ends a training once every word is right."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        control.should_training_stop = metrics["eval_wer"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "predictor"), [("sanm", "cif"), ("sanm", "ctc"), ("whisper", "cif")])
def test_tiny_model_learns_16_spoken_sentences_by_heart(decoder, predictor, spoken, tmp_path):
    torch.manual_seed(0)
    words = tuple(sorted({word for line in SENTENCES for word in line.split()}))
    text, tokenizer = tiny_bert(words)
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 128, "dropout": 0.0, "attention_dropout": 0.0}
    whisper = WHISPER_SIZES | {"d_model": 64}
    speech = SANMConfig(input_size=560, **sizes)
    model = CLSRModel.from_pretrained_parts(
        speech,
        text,
        text_tokenizer=tokenizer,
        decoder_type=decoder,
        decoder_config=SANMConfig(encoder_hidden_size=64, **sizes)
        if decoder == "sanm"
        else WhisperConfig(**whisper),
        predictor_type=predictor,
        adaptor_type="vq",
        adaptor_temperature=0.1,
        label_smoothing=0.0,
        contrastive_weight=0.1,
        recognition_weight=1.0,
        quantity_weight=3.0,  # at 1 the predictor may stay one word short of a sentence
        vocabulary_ids=sorted(tokenizer.convert_tokens_to_ids(list(words))),
    )
    processor = CLSRProcessor.from_pretrained_parts(speech, text, tokenizer, parallel=True)
    fill_statistics(Built(model, processor, tokenizer), spoken, seed=0)
    made = trainer(
        tmp_path,
        model,
        processor,
        spoken,
        "joint",
        pool=spoken,
        per_device_train_batch_size=8,
        max_steps=800,
        learning_rate=3e-3,
        warmup_steps=50,
        logging_steps=50,
        lr_scheduler_type="cosine",
        eval_strategy="steps",
        eval_steps=50,
    )
    made.add_callback(ByHeart())
    made.train()
    assert made.evaluate()["eval_wer"] == 0.0
    # Its text encoder starts from random weights: now that learns what half a sentence has to do with the whole.
    made = trainer(
        tmp_path / "post",
        model,
        processor,
        spoken,
        "post",
        pool=spoken,
        per_device_train_batch_size=16,
        max_steps=80,
        learning_rate=2e-3,
        logging_steps=20,
    )
    made.train()
    measures = made.evaluate()
    assert (measures["eval_wer"], measures["eval_recall_at_1"]) == (0.0, 1.0)
