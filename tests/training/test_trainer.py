"""CLSRTrainer: one step, many steps, resumed steps, and what it measures."""

import json

import pytest
import torch

from modeling_clsr import CLSRModel, CLSRProcessor
from modeling_clsr.training.trainer import last_complete_checkpoint
from tests.training.tiny_runs import sanm_model, sanm_processor, tone_rows, trainer, whisper_parts


def still(model):
    """Without dropout, so that two ways can be compared."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def step_gradients(made, batches) -> dict[str, torch.Tensor]:
    """Gradients after the Trainer's own training steps over `batches`, one accumulation."""
    made.current_gradient_accumulation_steps = len(batches)
    made.create_optimizer()
    model = made.accelerator.prepare(made.model)
    for batch in batches:
        made.training_step(model, batch)
    return {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}


def batches(made, size):
    rows = [made.train_dataset[index] for index in range(len(made.train_dataset))]
    return [made.data_collator(rows[start : start + size]) for start in range(0, len(rows), size)]


def test_accumulated_gradient_is_the_mean_of_the_batches(tmp_path):
    rows = tone_rows(tmp_path / "tones", 16)
    gradients = []
    for accumulated in (False, True):
        made = trainer(tmp_path, still(sanm_model(tmp_path)), sanm_processor(), rows, "dual")
        if accumulated:
            gradients.append(step_gradients(made, batches(made, 4)))
        else:
            singles = []
            for batch in batches(made, 4):
                singles.append(step_gradients(made, [batch]))
                made.model.zero_grad()
            gradients.append({name: sum(single[name] for single in singles) / 4 for name in singles[0]})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5)


def test_step_in_pieces_has_the_gradients_of_the_plain_step(tmp_path):
    rows = tone_rows(tmp_path / "tones", 8)
    found = []
    for size in (None, 2):
        made = trainer(
            tmp_path,
            still(sanm_model(tmp_path, sampler_ratio=0.01)),
            sanm_processor(),
            rows,
            "joint",
            per_device_train_batch_size=8,
            mini_batch_size=size,
        )
        found.append(step_gradients(made, batches(made, 8)))
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-4, atol=1e-5)


def test_frozen_parts_keep_weights_and_evaluation_mode(tmp_path):
    rows = tone_rows(tmp_path / "tones", 8)
    model = sanm_model(tmp_path)
    before = {name: weight.clone() for name, weight in model.text_model.state_dict().items()}
    made = trainer(tmp_path, model, sanm_processor(), rows, "joint")
    made.train()
    assert not model.text_model.training and model.speech_model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.text_model.state_dict().items())


def test_resumed_run_gives_the_curve_of_an_uninterrupted_one(tmp_path):
    rows = tone_rows(tmp_path / "tones", 12)
    steps = {"max_steps": 6, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2}

    def run(folder, **fields):
        made = trainer(folder, sanm_model(tmp_path), sanm_processor(), rows, "joint", **(steps | fields))
        return made

    whole = run(tmp_path / "whole")
    whole.train()
    cut = run(tmp_path / "cut")
    cut.train()  # its checkpoints are those of a run that was stopped after step 4
    for folder in ("checkpoint-6",):
        for file in (tmp_path / "cut" / folder).iterdir():
            file.unlink()
    last = last_complete_checkpoint(tmp_path / "cut")
    assert last.name == "checkpoint-4"
    again = run(tmp_path / "cut")
    again.train(resume_from_checkpoint=str(last))
    losses = [
        [entry["loss"] for entry in made.state.log_history if "loss" in entry] for made in (whole, again)
    ]
    assert losses[0] == losses[1]
    for (name, first), second in zip(
        whole.model.state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second), name


def test_half_written_checkpoint_is_not_resumed_from(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "complete").touch()
    (tmp_path / "checkpoint-20").mkdir()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_best_checkpoint_is_kept_by_recall_and_the_curve_is_drawn(tmp_path):
    rows = tone_rows(tmp_path / "tones", 8)
    made = trainer(
        tmp_path / "out",
        sanm_model(tmp_path),
        sanm_processor(),
        rows,
        "joint",
        pool=rows,
        max_steps=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
    )
    made.train()
    measured = [entry for entry in made.state.log_history if "eval_recall_at_1" in entry]
    assert [entry["step"] for entry in measured] == [2, 4]
    assert {"eval_recall_at_5", "eval_recall_at_10", "eval_mrr", "eval_wer"} <= measured[0].keys()
    assert made.state.best_metric == max(entry["eval_recall_at_1"] for entry in measured)
    pytest.importorskip("matplotlib")
    assert (tmp_path / "out" / "training_curve.png").stat().st_size > 5000


def test_trainers_checkpoint_is_a_whole_folder(tmp_path):
    model, processor, tokenizer = whisper_parts(tmp_path)
    rows = tone_rows(tmp_path / "tones", 8)
    made = trainer(
        tmp_path / "out",
        model,
        processor,
        rows,
        "joint",
        tokenizer=tokenizer,
        save_strategy="steps",
        save_steps=3,
    )
    made.train()
    folder = tmp_path / "out" / "checkpoint-3"
    assert {"modeling_clsr.py", "processor_config.json", "tokenizer.json", "retokenizer.json"} <= {
        file.name for file in folder.iterdir()
    }
    assert "AutoModel" in json.loads((folder / "config.json").read_text())["auto_map"]
    loaded = CLSRModel.from_pretrained(folder).eval()
    batch = CLSRProcessor.from_pretrained(folder)(audio=[made.train_dataset[0].waveform], sampling_rate=16000)
    made.model.eval()
    with torch.no_grad():
        one, other = loaded.get_audio_features(**batch), made.model.get_audio_features(**batch)
    assert torch.equal(one.pooler_output, other.pooler_output)


def test_evaluation_hears_no_transcripts(tmp_path):
    """Recall and WER come from free decoding: other transcripts in the pool change the WER and no vector."""
    rows = tone_rows(tmp_path / "tones", 6)
    made = trainer(tmp_path, sanm_model(tmp_path), sanm_processor(), rows, "joint", pool=rows)
    batch = made.eval_collator([made.eval_dataset[index] for index in range(6)])
    assert "transcript_ids" not in batch
    measures = made.evaluate()
    assert 0 <= measures["eval_recall_at_1"] <= 1 and measures["eval_wer"] > 0


def test_text_stage_ranks_passages_and_hears_nothing(tmp_path):
    rows = tone_rows(tmp_path / "tones", 8)
    made = trainer(tmp_path, sanm_model(tmp_path), sanm_processor(), rows, "text", pool=rows)
    assert made.train_dataset[0].waveform is None
    made.train()
    # the question is the passage: even untrained, equal texts have equal vectors
    assert made.evaluate()["eval_recall_at_1"] == 1.0


def test_odd_number_of_rows_repeats_none_among_the_negatives(tmp_path):
    rows = tone_rows(tmp_path / "tones", 10)
    made = trainer(
        tmp_path, sanm_model(tmp_path), sanm_processor(), rows, "joint", per_device_train_batch_size=3
    )
    seen = [batch["row_index"].tolist() for batch in made.get_train_dataloader()]
    assert [len(batch) for batch in seen] == [3, 3, 3]  # the tenth row waits for another epoch's order
    assert len({row for batch in seen for row in batch}) == 9


def test_every_weight_of_a_pretrained_recogniser_gets_a_gradient(tmp_path):
    """A weight without one would stop distributed training silently."""
    model, processor, tokenizer = whisper_parts(tmp_path)
    rows = tone_rows(tmp_path / "tones", 4)
    made = trainer(tmp_path, model, processor, rows, "joint", tokenizer=tokenizer)
    for weight in model.parameters():
        weight.requires_grad_(True)
    batch = made.data_collator([made.train_dataset[index] for index in range(4)])
    made.compute_loss(model, batch).backward()
    fixed = "model.encoder.embed_positions"  # sinusoids
    missing = [name for name, weight in model.named_parameters() if weight.grad is None and fixed not in name]
    assert missing == []
