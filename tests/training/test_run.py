"""Whole runs through train_clsr.py: from a recipe to a stamped checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import WhisperFeatureExtractor

from modeling_clsr import CLSRModel
from modeling_clsr.training.arguments import parse_arguments
from modeling_clsr.training.run import run
from tests.tiny_parts import tiny_parts
from tests.training.tiny_runs import sanm_model, sanm_processor, tone_rows, whisper_parts

ROOT = Path(__file__).parents[2]
FAST = [
    "--use_cpu",
    "true",
    "--disable_tqdm",
    "true",
    "--logging_steps",
    "1",
    "--per_device_train_batch_size",
    "4",
]


@pytest.fixture
def sanm(tmp_path):
    """Folder with a checkpoint and 8 spoken rows."""
    sanm_model(tmp_path).save_pretrained(tmp_path / "start")
    sanm_processor().save_pretrained(tmp_path / "start")
    tone_rows(tmp_path / "tones", 8)
    return tmp_path


@pytest.fixture
def whisper(tmp_path):
    model, processor, tokenizer = whisper_parts(tmp_path)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "recognizer_tokenizer")
    tone_rows(tmp_path / "tones", 8)
    return tmp_path


def command(folder, *extra, out="out"):
    return [
        *("--model", str(folder / "start"), "--train_manifest", str(folder / "tones" / "rows.jsonl")),
        *("--output_dir", str(folder / out), *FAST, *extra),
    ]


def train(folder, *extra, out="out"):
    return run(*parse_arguments(command(folder, *extra, out=out)))


def test_run_leaves_a_checkpoint_with_its_stamp(sanm):
    train(sanm, "--max_steps", "2", "--eval_manifest", str(sanm / "tones" / "rows.jsonl"))
    stamp = json.loads((sanm / "out" / "stamp.json").read_text())
    assert stamp["recipe"]["stage"] == "joint" and stamp["recipe"]["max_steps"] == 2
    assert stamp["rows"] == 8 and len(stamp["rows_sha256"]) == 64 and stamp["steps"] == 2
    assert {"commit", "packages", "device", "world_size", "command"} <= stamp.keys()
    assert CLSRModel.from_pretrained(sanm / "out").config.predictor_type == "cif"


def test_statistics_of_a_new_filterbank_are_measured(sanm):
    made = train(sanm, "--max_steps", "1")
    speech = made.model.speech_model
    assert bool(speech.cmvn_shift.any())
    features = made.processing_class.feature_extractor(made.train_dataset[0].waveform, 16000)[
        "input_features"
    ]
    normal = (features + speech.cmvn_shift) * speech.cmvn_scale
    assert normal.mean().abs() < 0.5 and 0.5 < normal.std() < 1.5


@pytest.mark.parametrize("stage", ["asr", "text", "joint", "post", "dual"])
def test_every_stage_runs_and_lowers_its_loss(stage, sanm):
    made = train(sanm, "--stage", stage, "--max_steps", "12", "--learning_rate", "3e-3")
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_states_of_a_frozen_encoder_are_read_in_place_of_audio(sanm):
    narrow = ("--trainable", r"decoder|predictor|output_layer", "--max_steps", "3", "--sampler_ratio", "0.01")
    heard = train(sanm, *narrow, out="heard")
    cached = train(sanm, *narrow, "--cache", "states", out="cached")
    assert cached.train_dataset[0].waveform is None
    losses = [[e["loss"] for e in made.state.log_history if "loss" in e] for made in (heard, cached)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)  # the cache is in half precision
    shards = list((sanm / "cached" / "cache").rglob("*.safetensors"))
    before = [shard.stat().st_mtime_ns for shard in shards]
    manifest = sanm / "tones" / "rows.jsonl"
    lines = manifest.read_text().splitlines()
    lines.append(json.dumps(json.loads(lines[0]) | {"id": "second", "question": "What else is heard?"}))
    manifest.write_text("\n".join(lines) + "\n")
    later = ("--model", str(sanm / "cached"), "--cache_dir", str(sanm / "cached" / "cache"))
    other_loss = ("--cache", "states", "--contrastive_weight", "0.1")
    again = train(sanm, *narrow, *other_loss, *later, out="again").train_dataset
    assert torch.equal(again[8].states, again[0].states)  # two rows of one clip
    assert set((sanm / "cached" / "cache").rglob("*.safetensors")) == set(shards)
    assert [shard.stat().st_mtime_ns for shard in shards] == before


def test_cache_of_a_trained_part_is_refused(sanm):
    with pytest.raises(ValueError, match="a frozen encoder makes but the stage 'joint' trains it"):
        train(sanm, "--cache", "states")


def test_post_training_reads_what_the_frozen_recogniser_wrote(whisper):
    made = train(
        whisper, "--stage", "post", "--cache", "transcripts", "--max_steps", "2", *tokenizer(whisper)
    )
    item = made.train_dataset[0]
    assert item.waveform is None and isinstance(item.recognised, str)


def test_encoder_learns_from_itself_padded_without_transcripts(whisper):
    lines = (whisper / "tones" / "rows.jsonl").read_text().splitlines()
    bare = [json.dumps({key: json.loads(line)[key] for key in ("id", "audio")}) for line in lines]
    (whisper / "tones" / "rows.jsonl").write_text("\n".join(bare) + "\n")
    settings = ("--stage", "selfdistil", "--max_steps", "10", "--learning_rate", "1e-3", *tokenizer(whisper))
    made = train(whisper, *settings)
    logs = [entry for entry in made.state.log_history if "loss_states" in entry]
    assert logs[-1]["loss_states"] < logs[0]["loss_states"]
    start = CLSRModel.from_pretrained(whisper / "start")
    for (name, trained), untouched in zip(made.model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(trained, untouched) or ".encoder." in name, name


def test_selfdistil_of_another_recogniser_is_refused(sanm):
    with pytest.raises(ValueError, match=r"but the recogniser is .* with decoder_type 'sanm'"):
        train(sanm, "--stage", "selfdistil")


def test_two_ways_to_name_the_model_are_refused(sanm):
    with pytest.raises(ValueError, match=r"give model .a checkpoint. alone, or speech and text"):
        train(sanm, "--speech", "sanm", "--text", "bert")


def test_bad_rows_are_named_or_skipped_and_counted(sanm, caplog):
    file = sanm / "tones" / "rows.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {"audio": "gone.wav"})
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        FileNotFoundError, match=r"row 3 \(r2\) .*gone.wav, which is not there; set audio_root"
    ):
        train(sanm, "--max_steps", "1")
    made = train(sanm, "--max_steps", "1", "--skip_bad_rows", "true")
    assert len(made.train_dataset) == 7
    assert "1 rows of" in caplog.text


def test_augmented_clips_differ_by_epoch_and_only_in_training(sanm):
    settings = (
        "--speed_probability",
        "1",
        "--codec_probability",
        "1",
        "--spec_augment",
        "true",
        "--max_steps",
        "1",
    )
    made = train(sanm, *settings, "--eval_manifest", str(sanm / "tones" / "rows.jsonl"))
    plain = made.eval_dataset[0].waveform
    made.train_dataset.set_epoch(0)
    first = made.train_dataset[0].waveform
    made.train_dataset.set_epoch(1)
    second = made.train_dataset[0].waveform
    assert len({len(plain), len(first), len(second)}) == 3
    item = made.train_dataset[0]
    masked = made.data_collator([item])["input_features"]
    assert not masked.equal(made.eval_collator([item])["input_features"])
    with pytest.raises(ValueError, match="noise_probability is 1 but noise_dir is None"):
        train(sanm, "--noise_probability", "1", "--max_steps", "1")


def test_a_memory_bank_is_filled_from_all_rows(sanm, caplog):
    made = train(sanm, "--memory_bank", "true", "--max_steps", "8", "--learning_rate", "3e-3")
    assert "and those of 8 rows in the memory bank" in caplog.text
    losses = [entry["loss_contrastive"] for entry in made.state.log_history if "loss_contrastive" in entry]
    assert losses[-1] < losses[0]
    assert torch.allclose(made.bank.documents.norm(dim=-1), torch.ones(8), atol=1e-5)
    with pytest.raises(ValueError, match="memory_bank needs all"):
        train(sanm, "--memory_bank", "true", "--streaming", "true", "--max_steps", "1")


def test_scores_of_a_text_retriever_are_distilled(sanm):
    settings = ("--stage", "dual", "--score_weight", "1", "--max_steps", "8", "--learning_rate", "3e-3")
    made = train(sanm, *settings)
    logs = [
        entry["loss_score_distillation"]
        for entry in made.state.log_history
        if "loss_score_distillation" in entry
    ]
    assert logs[-1] < logs[0]
    item = made.train_dataset[0]
    assert torch.allclose(item.teacher_vectors.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_dual_encoder_over_kept_states_learns_scores_at_the_pace_it_is_given(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    for name, model, tokenizer in (
        ("speech", parts.speech, parts.speech_tokenizer),
        ("text", parts.text, parts.text_tokenizer),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    WhisperFeatureExtractor().save_pretrained(tmp_path / "speech")
    tone_rows(tmp_path / "tones", 8)
    argv = ["--config", str(ROOT / "recipes" / "speechdpr.yaml"), *FAST, "--use_cpu", "true"]
    argv += ["--speech", str(tmp_path / "speech"), "--text", str(tmp_path / "text"), "--width", "32"]
    argv += [
        "--train_manifest",
        str(tmp_path / "tones" / "rows.jsonl"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    made = run(
        *parse_arguments([*argv, "--max_steps", "8", "--warmup_steps", "0", "--learning_rate", "3e-3"])
    )
    assert made.train_dataset[0].waveform is None and set(made.train_dataset.caches) == {
        "teacher_vectors",
        "states",
    }
    frozen = {name.split(".")[1] for name, p in made.model.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder"}
    losses = [e["loss_score_distillation"] for e in made.state.log_history if "loss_score_distillation" in e]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"tokens_per_s is 60 .* but a CIF predictor over 50 frames"):
        run(*parse_arguments([*argv, "--tokens_per_s", "60"]))


def test_clips_longer_than_one_pass_are_named_or_skipped(sanm, caplog):
    import soundfile

    soundfile.write(sanm / "tones" / "0.wav", torch.zeros(31 * 16000).numpy(), 16000)
    with pytest.raises(ValueError, match=r"row r0 is 31.00 s but one pass takes at most 30 s"):
        train(sanm, "--max_steps", "1")
    made = train(sanm, "--max_steps", "1", "--skip_bad_rows", "true")
    assert len(made.train_dataset) == 7
    assert "1 rows were skipped, as one pass takes at most 30 s: r0 is 31.00 s" in caplog.text


def test_transcripts_that_the_vocabulary_does_not_spell_are_named_or_skipped(sanm, caplog):
    file = sanm / "tones" / "rows.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {"transcript": "the ❤ sea"})
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"row r2 needs the token '\[UNK\]' but it is not among the \d+ of"):
        train(sanm, "--max_steps", "1")
    made = train(sanm, "--max_steps", "1", "--skip_bad_rows", "true")
    assert [row.id for row in made.train_dataset.rows] == ["r0", "r1", *(f"r{n}" for n in range(3, 8))]
    assert "r2 needs the token" in caplog.text


def test_hugging_face_data_set_trains_without_torchcodec(sanm):
    datasets = pytest.importorskip("datasets", reason="the extra train is not installed")
    rows = [json.loads(line) for line in (sanm / "tones" / "rows.jsonl").read_text().splitlines()]
    content = {
        "name": [row["id"] for row in rows],
        "sound": [(sanm / "tones" / row["audio"]).read_bytes() for row in rows],
        "words": [row["transcript"] for row in rows],
        "question": [row["question"] for row in rows],
    }
    dataset = datasets.Dataset.from_dict(content).cast_column("sound", datasets.Audio(decode=False))
    dataset.save_to_disk(sanm / "stored")
    argv = [
        "--model",
        str(sanm / "start"),
        "--dataset",
        str(sanm / "stored"),
        "--output_dir",
        str(sanm / "out"),
    ]
    argv += [*FAST, "--columns", "id=name,audio=sound,transcript=words", "--max_steps", "1"]
    made = run(*parse_arguments(argv))
    assert [row.transcript for row in made.train_dataset.rows] == content["words"]
    assert all(Path(row.audio).is_file() for row in made.train_dataset.rows)


def test_streamed_rows_train_for_the_steps_asked_for(sanm):
    made = train(sanm, "--streaming", "true", "--max_steps", "3")
    assert made.state.global_step == 3
    items = list(made.train_dataset)
    assert [item.row.id for item in items] == [f"r{number}" for number in range(8)]
    with pytest.raises(ValueError, match="streaming has no end but max_steps is -1"):
        train(sanm, "--streaming", "true")


def test_bad_rows_of_a_stream_are_named_when_they_come_or_left_out(sanm, monkeypatch):
    monkeypatch.setattr("modeling_clsr.training.run.STREAM_SAMPLE", 4)
    file = sanm / "tones" / "rows.jsonl"
    lines = file.read_text().splitlines()
    lines[6] = json.dumps(json.loads(lines[6]) | {"transcript": "the ❤ sea"})
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"row r6 needs the token '\[UNK\]'"):
        train(sanm, "--streaming", "true", "--max_steps", "3")
    made = train(sanm, "--streaming", "true", "--max_steps", "3", "--skip_bad_rows", "true", out="skipped")
    assert [item.row.id for item in made.train_dataset] == [f"r{n}" for n in (0, 1, 2, 3, 4, 5, 7)]


def tokenizer(folder):
    return ("--recognizer_tokenizer", str(folder / "recognizer_tokenizer"))


def launch(folder, *extra, **popen):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train_clsr.py"), *command(folder, *extra)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **popen,
    )


@pytest.mark.slow
def test_killed_run_goes_on_by_itself_and_loses_at_most_save_steps(sanm):
    extra = ("--max_steps", "400", "--save_steps", "5", "--save_total_limit", "3")
    first = launch(sanm, *extra)
    deadline = time.time() + 120
    while not list((sanm / "out").glob("checkpoint-*/complete")) and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    reached = max(
        int(path.parent.name.split("-")[1]) for path in (sanm / "out").glob("checkpoint-*/complete")
    )
    assert 0 < reached < 400
    second = launch(sanm, "--max_steps", str(reached + 5), "--save_steps", "5", "--save_total_limit", "3")
    _, errors = second.communicate(timeout=180)
    assert second.returncode == 0, errors
    assert f"going on from {sanm / 'out' / f'checkpoint-{reached}'}" in errors
    history = json.loads((sanm / "out" / f"checkpoint-{reached + 5}" / "trainer_state.json").read_text())
    steps = [entry["step"] for entry in history["log_history"] if "loss" in entry]
    assert steps == list(range(1, reached + 6))


@pytest.mark.slow
def test_command_says_what_is_wrong_in_one_line(sanm):
    process = launch(sanm, "--learning_rte", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == (
        "train_clsr.py: the command line has learning_rte, which is no argument; did you mean learning_rate?"
    )
