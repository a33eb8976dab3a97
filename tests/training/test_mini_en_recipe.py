"""The scripts of recipes/mini_en, on tiny models: labels, passages, the teacher, and each script run once."""

import importlib
import json
import random
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from modeling_clsr import CLSRModel, CLSRProcessor
from modeling_clsr.data.manifest import Row, read_manifest, write_manifest
from modeling_clsr.evaluation.evaluator import load_set
from modeling_clsr.training.arguments import ModelArguments
from modeling_clsr.training.build import build_model
from tests.tiny_parts import tiny_parts
from tests.training.tiny_runs import tone_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "mini_en"


@pytest.fixture(autouse=True)
def recipe_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))


def run(monkeypatch, script: str, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(RECIPE / script), run_name="__main__")


@pytest.fixture
def spoken(tmp_path) -> Path:
    """Sixty sentences, spoken, and what was heard of them: the same words, and in noise the first word lost."""
    rows = [
        replace(row, id=f"s-{number:06d}-q0", context_id=f"s-{number:06d}")
        for number, row in enumerate(tone_rows(tmp_path / "squad", 60))
    ]
    write_manifest(tmp_path / "squad" / "manifest.jsonl", rows)
    texts = [{"sentence": row.transcript, "question": row.question} for row in rows]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, texts)) + "\n")
    (tmp_path / "heard").mkdir()
    for name, cut in (("squad.0", 0), ("squad-noisy", 1)):
        heard = [{"id": row.id, "text": " ".join(row.transcript.split()[cut:])} for row in rows]
        (tmp_path / "heard" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, heard)) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("true", "heard", "label", "missed"),
    [
        ("WE CALL IT BEAR", "We call it bear.", "We call it bear.", 0.0),
        ("the town of lourdes, france", "The town of Lord, France.", "The town of lourdes, France.", 0.2),
        ("seen once", "", "Seen once", 1.0),
    ],
)
def test_label_has_the_true_words_as_the_recogniser_spells_them(true, heard, label, missed):
    assert importlib.import_module("labels").dress(true, heard) == (label, missed)


def test_training_rows_leave_out_held_out_articles_and_misread_clips(spoken, monkeypatch):
    labels = importlib.import_module("labels")
    monkeypatch.setattr(labels, "HELD_OUT_FROM", 5)
    squad = read_manifest(spoken / "squad" / "manifest.jsonl")
    ocean = [
        Row(id="right", audio="r.wav", transcript="MARK IS GOING"),
        Row(id="wrong", audio="w.wav", transcript="MARK IS GOING"),
        Row(id="unheard", audio="u.wav", transcript="MARK IS GOING"),
    ]
    heard = [{"id": "right", "text": "Mark is going."}, {"id": "wrong", "text": "A dark night."}]
    (spoken / "heard" / "ocean.jsonl").write_text("\n".join(map(json.dumps, heard)) + "\n")
    rows = list(labels.training_rows(squad, ocean, spoken / "heard"))
    assert [row.context_id for row in rows[:-1]] == [f"s-{number:06d}" for number in range(5)]
    assert (rows[-1].id, rows[-1].transcript, rows[-1].question) == (
        "right",
        "Mark is going.",
        "Mark is going.",
    )


def test_passages_hold_each_sentence_once_in_order_with_its_questions():
    text_side = importlib.import_module("text_side")
    sentences = [
        text_side.Sentence(f"word{n} " * 9, (f"clean{n}", f"noisy{n}"), (f"question{n}",) * (n % 3))
        for n in range(40)
    ]
    passages = text_side.join(sentences, random.Random(3), version=-1)
    assert len(passages) > 5
    assert [text for passage in passages for text in passage.sentences] == [entry.true for entry in sentences]
    assert " ".join(passage.heard for passage in passages).split() == [f"noisy{n}" for n in range(40)]
    for passage in passages:
        own = {f"word{name.removeprefix('question')}" for name in passage.questions}
        assert own <= set(passage.true.split())
    mixed = " ".join(passage.heard for passage in text_side.join(sentences, random.Random(3)))
    assert "clean" in mixed and "noisy" in mixed


def test_sentences_have_what_was_heard_in_quiet_then_in_noise(tmp_path):
    text_side = importlib.import_module("text_side")
    read_versions = importlib.import_module("labels").read_versions
    lines = [{"sentence": f"text {n // 2}", "question": f"who {n}"} for n in range(6)]  # two to a sentence
    lines.append({"sentence": "text 3", "question": None})
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    heard = {
        "a-noisy.0": [{"id": "s-000000-q0", "text": "noise"}, {"id": "s-000001-q0", "text": ""}],
        "a": [{"id": "s-000000-q0", "text": "Text zero."}],
        "b": [{"id": "s-000003", "text": "Text three."}],
    }
    (tmp_path / "heard").mkdir()
    for name, entries in heard.items():
        (tmp_path / "heard" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n")
    versions = read_versions(tmp_path / "heard")
    assert text_side.read_sentences(str(tmp_path / "s.jsonl"), "sentence", versions) == [
        text_side.Sentence("text 0", ("Text zero.", "noise"), ("who 0", "who 1")),
        text_side.Sentence("text 1", (), ("who 2", "who 3")),
        text_side.Sentence("text 2", (), ("who 4", "who 5")),
        text_side.Sentence("text 3", ("Text three.",), ()),
    ]


def test_what_is_held_out_has_questions_that_are_not_learnt(monkeypatch):
    held_out = importlib.import_module("held_out")
    monkeypatch.setattr(held_out, "FIRST", 2)
    monkeypatch.setattr(held_out, "LAST", 3)
    articles, asked = (
        [Row(f"{stem}{n}", "a.wav", question="who", context_id=f"{stem}-{n:06d}") for n in range(8)]
        for stem in ("s", "a")
    )
    asked[6] = replace(asked[6], question=None)
    assert [row.id for row in held_out.held_out(articles, asked)] == ["s0", "s1", "a5", "a7"]


def test_hours_count_a_clip_once_and_what_was_heard_in_noise(tmp_path, monkeypatch):
    held_out = importlib.import_module("held_out")
    monkeypatch.setattr(held_out, "FIRST", 1)
    monkeypatch.setattr(held_out, "LAST", 2)

    def clip(name, number, question=0):
        place, audio = f"{name}-{number:06d}", tmp_path / f"{name}{number}.wav"
        audio.touch()
        spoken = {"speaker": f"voice{number % 2}", "duration": 3600.0 * (number + 1)}
        asks = {"question": f"q{question}", "context_id": place}
        return Row(f"{place}-q{question}", str(audio), "w", **asks, **spoken)

    for name in ("squad", "asked"):
        rows = [clip(name, 0), clip(name, 0, 1), clip(name, 1), clip(name, 2)]
        write_manifest(tmp_path / name / "manifest.jsonl", rows)
        (tmp_path / "heard").mkdir(exist_ok=True)
        (tmp_path / "heard" / f"{name}-noisy.1.jsonl").write_text(
            f'{{"id": "{name}-000001-q0", "text": "w"}}\n'
        )
    run(monkeypatch, "hours.py", tmp_path, "--json", tmp_path / "speech.json")
    found = json.loads((tmp_path / "speech.json").read_text())["figures"]
    counted = {"clips": 3, "hours": 6.0, "hours_in_noise": 2.0, "clips_of_voices": {"voice0": 2, "voice1": 1}}
    assert found["squad"] == counted | {"hours_held_out": 1.0}
    assert found["asked"] == counted | {"hours_held_out": 5.0}


def test_words_agree_with_a_library():
    bm25s = pytest.importorskip("bm25s", reason="the extra eval is not installed")
    text_side = importlib.import_module("text_side")
    draw = random.Random(1)
    vocabulary = [f"w{number}" for number in range(30)]
    passages = [" ".join(draw.choices(vocabulary, k=draw.randint(4, 20))) for _ in range(25)]
    questions = [" ".join(draw.sample(vocabulary, 3)) for _ in range(10)]
    found = text_side.Words(passages).shares(questions, passages)
    library = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    library.index([passage.split() for passage in passages], show_progress=False)
    scores = np.stack([library.get_scores(question.split()) for question in questions])
    np.testing.assert_allclose(found, scores / scores.max(axis=1, keepdims=True), atol=1e-5)


def test_teacher_scores_as_search_does_and_loss_is_least_where_it_agrees(tiny_checkpoint):
    text_side = importlib.import_module("text_side")
    texts = text_side.Texts(
        CLSRModel.from_pretrained(tiny_checkpoint), CLSRProcessor.from_pretrained(tiny_checkpoint)
    )
    passages = [
        text_side.Passage("the sea", ("the sea.", "a road and a lamp."), ("which sea",)),
        text_side.Passage("the bee", ("the bee.",), ()),
    ]
    words = text_side.Words([passage.true for passage in passages])
    scores = text_side.teach(texts, words, ["which sea"], passages)
    with torch.no_grad():
        asked, whole, first, second = texts(
            ["which sea", "the sea. a road and a lamp.", "the sea.", "a road and a lamp."]
        )
    best = max(float(asked @ first), float(asked @ second))
    assert float(scores[0, 0]) == pytest.approx(0.5 * float(asked @ whole) + 0.5 * best + 0.2, abs=1e-5)

    class Settings:
        scale, teacher_share, teacher_temperature = 20.0, 1.0, 1.0

    with torch.no_grad():
        own = 20 * texts(["which sea"]) @ texts([passage.heard for passage in passages]).T
        right = torch.tensor([0])
        least, other = (
            text_side.listwise_loss(texts, passages, taught, ["which sea"], right, Settings)
            for taught in (own, own.flip(1) + torch.tensor([[1.0, 0.0]]))
        )
    entropy = -(own.softmax(1) * own.log_softmax(1)).sum()
    assert float(least) == pytest.approx(float(entropy), abs=1e-5) and least < other


def test_text_side_trains_measures_mixtures_and_the_best_one_is_named(
    spoken, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    plain = tmp_path / "plain.txt"
    plain.write_text("the sea and the road\na lamp\nthe bee\n")
    lines = [
        {"text": f"the sea and the lamp {n}", "question": f"which {n}" if n % 4 else None} for n in range(12)
    ]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join(map(json.dumps, lines)) + "\n")

    def text_side(name, rate, *more):
        run(
            monkeypatch,
            "text_side.py",
            *("--checkpoint", tiny_checkpoint, "--squad", spoken / "s.jsonl"),
            *("--heard", spoken / "heard", "--plain", plain, "--out", tmp_path / name, "--steps", 25),
            *("--held_out_from", 40, "--learning_rate", rate, "--anchor_weight", 0, "--device", "cpu"),
            *("--asked", asked, "--asked_held_out", 4, "--asked_stretch", 6, *more),
        )

    text_side("slow", 1e-9)
    text_side("fast", 5e-3)
    fast = json.loads((tmp_path / "fast" / "dev.json").read_text())
    found = fast["figures"]
    assert fast["stamp"]["settings"]["learning_rate"] == 5e-3 and fast["stamp"]["texts"]["plain"] == 3
    assert fast["stamp"]["texts"]["asked"] == 8
    assert found["curve"][-1]["loss"] < found["curve"][0]["loss"]
    assert found["before"].keys() == {"squad, clean", "squad, noisy", "asked"} and set(found["after"]) == {
        "0.25",
        "0.5",
        "0.75",
        "1.0",
    }
    gain = found["after - before"]["1.0"]["squad, noisy"]
    assert gain["difference"] == pytest.approx(
        found["after"]["1.0"]["squad, noisy"] - found["before"]["squad, noisy"]
    )
    assert gain["low"] <= gain["difference"] <= gain["high"]
    still = json.loads((tmp_path / "slow" / "dev.json").read_text())["figures"]
    assert still["after"]["1.0"] == still["before"]
    assert (tmp_path / "fast" / "model.safetensors").is_file()
    capsys.readouterr()
    run(monkeypatch, "best_text.py", tmp_path / "slow" / "dev.json", tmp_path / "fast" / "dev.json")
    means = {
        name: max(np.mean(list(pools.values())) for pools in entry["after"].values())
        for name, entry in (("slow", still), ("fast", found))
    }
    named = capsys.readouterr().out.split()
    assert sorted(named) == ["fast", "slow"] and means[named[0]] == max(means.values())
    # What has been trained is not trained again, only measured beside another.
    text_side("fast", 5e-3, "--beside", tiny_checkpoint)
    again = json.loads((tmp_path / "fast" / "dev.json").read_text())["figures"]
    assert again["after"] == found["after"] and again["beside"] == found["before"]
    assert again["after - beside"] == found["after - before"]


def test_text_side_goes_on_where_it_was_stopped(spoken, tiny_checkpoint, tmp_path, monkeypatch):
    text_side = importlib.import_module("text_side")
    monkeypatch.setattr(text_side, "SAVE_STEPS", 2)
    settings = ("--checkpoint", tiny_checkpoint, "--squad", spoken / "s.jsonl", "--heard")
    settings += (spoken / "heard", "--held_out_from", 40, "--steps", 5, "--device", "cpu", "--out")
    saved = torch.save

    def stop_after_saving(state, file):
        saved(state, file)
        if state["steps"] == 4:
            file.replace(file.with_name(text_side.STATE_FILE))
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["text_side.py", *map(str, settings), str(tmp_path / "whole")])
    text_side.main()
    monkeypatch.setattr(sys, "argv", ["text_side.py", *map(str, settings), str(tmp_path / "stopped")])
    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(torch, "save", stop_after_saving)
        text_side.main()
    text_side.main()
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(stopped[name], weight, rtol=0, atol=1e-6)


def test_clips_are_heard_once_each_and_shards_make_the_whole(tmp_path, tiny_checkpoint, monkeypatch):
    tone_rows(tmp_path / "tones", 5)
    soundfile.write(tmp_path / "noise1.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    manifest = f"tones={tmp_path / 'tones' / 'rows.jsonl'}"
    common = ("--checkpoint", tiny_checkpoint, "--workers", 0, "--device", "cpu")
    for shard in ("0/2", "1/2", "0/2"):
        run(monkeypatch, "hear.py", manifest, *common, "--out", tmp_path / "halves", "--shard", shard)
    run(monkeypatch, "hear.py", manifest, *common, "--out", tmp_path / "whole")
    read_heard = importlib.import_module("labels").read_heard
    whole = read_heard(tmp_path / "whole", "tones")
    assert whole.keys() == {f"r{number}" for number in range(5)}
    assert read_heard(tmp_path / "halves", "tones") == whole
    lines = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "halves").iterdir())]
    assert lines == [3, 2]
    noisy = ("--noise_dir", tmp_path, "--snr_db", "0,5")
    run(monkeypatch, "hear.py", manifest, *common, *noisy, "--out", tmp_path / "noisy")
    assert read_heard(tmp_path / "noisy", "tones").keys() == whole.keys()


def test_clips_are_encoded_once_for_checkpoints_of_one_encoder(tmp_path, tiny_checkpoint, monkeypatch):
    tone_rows(tmp_path / "tones", 5)
    again = shutil.copytree(tiny_checkpoint, tmp_path / "again")
    weights = load_file(again / "model.safetensors")
    weights["speech_model.model.decoder.layers.0.fc1.bias"] += 1.0
    save_file(weights, again / "model.safetensors", metadata={"format": "pt"})
    manifest = f"tones={tmp_path / 'tones' / 'rows.jsonl'}"
    common = ("--states", tmp_path / "states", "--workers", 0, "--device", "cpu")
    for checkpoint, name in ((tiny_checkpoint, "first"), (again, "second")):
        run(monkeypatch, "hear.py", manifest, "--checkpoint", checkpoint, *common, "--out", tmp_path / name)
    assert len(list((tmp_path / "states" / "tones").glob("*/shard-*.safetensors"))) == 1
    read_heard = importlib.import_module("labels").read_heard
    first, second = (read_heard(tmp_path / name, "tones") for name in ("first", "second"))
    assert first.keys() == second.keys() == {f"r{number}" for number in range(5)}
    assert first != second
    with pytest.raises(SystemExit):
        run(monkeypatch, "hear.py", manifest, *common, "--snr_db", "0,5", "--out", tmp_path / "noisy")


def test_weights_in_pieces_become_the_checkpoint_again_and_its_parts(tmp_path, tiny_checkpoint, monkeypatch):
    data = (tiny_checkpoint / "model.safetensors").read_bytes()
    for number, cut in enumerate((slice(0, 1000), slice(1000, None))):
        (tmp_path / f"part{number}").write_bytes(data[cut])
    run(
        monkeypatch,
        "assemble.py",
        *(tmp_path / "part0", tmp_path / "part1", "--out", tmp_path / "model.safetensors"),
    )
    assert (tmp_path / "model.safetensors").read_bytes() == data
    for part in ("speech", "text"):
        (tmp_path / "companions" / part).mkdir(parents=True)
        (tmp_path / "companions" / part / "note.txt").write_text(part)
    run(
        monkeypatch,
        "parts.py",
        *(tiny_checkpoint, "--companions", tmp_path / "companions", "--out", tmp_path / "parts"),
    )
    for part in ("speech", "text"):
        assert (tmp_path / "parts" / part / "model.safetensors").is_file()
        assert (tmp_path / "parts" / part / "note.txt").read_text() == part


def test_parallel_decoder_is_built_from_whisper_by_name_alone(tmp_path):
    """As nar.yaml asks for it: the sizes are those of the recogniser's own decoder."""
    parts = tiny_parts("whisper", tmp_path)
    for part, tokenizer, name in (
        (parts.speech, parts.speech_tokenizer, "speech"),
        (parts.text, parts.text_tokenizer, "text"),
    ):
        part.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    args = ModelArguments(
        speech=str(tmp_path / "speech"),
        text=str(tmp_path / "text"),
        decoder_type="whisper",
        predictor_type="cif",
        adaptor_type="vq",
    )
    built = build_model(args, [])
    assert built.model.config.decoder_config.decoder_layers == parts.speech.config.decoder_layers
    own = parts.speech.model.decoder.layers[0].fc1.weight
    assert torch.equal(built.model.speech_model.decoder.layers[0].fc1.weight, own)


def test_collection_is_learnt_from_as_it_was_heard_and_searched_by_what_was_held_back(
    spoken, tmp_path, monkeypatch, capsys
):
    manifest = spoken / "squad" / "manifest.jsonl"
    rows = read_manifest(manifest)
    second = json.dumps(
        {
            "id": "second",
            "audio": str(rows[4].audio),
            "transcript": rows[4].transcript,
            "question": "What else?",
            "context_id": rows[4].context_id,
        }
    )
    manifest.write_text(manifest.read_text() + second + "\n")
    heard = [{"id": row.id, "text": "" if number == 1 else "a bee"} for number, row in enumerate(rows)]
    (spoken / "heard" / "collection.jsonl").write_text("\n".join(map(json.dumps, heard)) + "\n")
    elsewhere = tone_rows(tmp_path / "elsewhere", 5)
    places = ("--heard", spoken / "heard", "--out", tmp_path / "work")
    run(
        monkeypatch,
        *("collection.py", manifest, "--elsewhere", tmp_path / "elsewhere" / "rows.jsonl", *places),
    )
    learnt = read_manifest(tmp_path / "work" / "pseudo.jsonl")
    assert {row.transcript for row in learnt} == {"a bee"}
    learnable = [row for n, row in enumerate(rows) if n % 3 and n != 1]
    assert [row.id for row in learnt] == [row.id for row in learnable]
    passages, questions = load_set(tmp_path / "work" / "other_clips")
    assert [row.transcript for row in passages] == [row.transcript for row in rows[::3]]
    assert [question.question for question in questions] == [row.question for row in rows[::3]]
    passages, questions = load_set(tmp_path / "work" / "new_questions")
    assert [row.id for row in passages] == [row.id for row in learnable]
    assert [(entry.question, entry.context_id) for entry in questions] == [("What else?", rows[4].context_id)]
    passages, questions = load_set(tmp_path / "work" / "other_articles")
    assert [row.id for row in passages] == [row.id for row in elsewhere]
    assert len(questions) == 5
    assert "39 rows to learn from, 1 new questions about their clips, 20 questions about other clips" in (
        capsys.readouterr().out
    )


def test_average_lies_between_the_weights_before_and_after(tiny_checkpoint, tmp_path, monkeypatch):
    trained = tmp_path / "trained"
    shutil.copytree(tiny_checkpoint, trained)
    before = load_file(tiny_checkpoint / "model.safetensors")
    name, moved = next((name, weight + 1.0) for name, weight in before.items() if weight.is_floating_point())
    save_file(before | {name: moved}, trained / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "averaged"
    run(monkeypatch, "average.py", trained, "--base", tiny_checkpoint, "--share", "0.25", "--out", out)
    weights = load_file(out / "model.safetensors")
    torch.testing.assert_close(weights[name], before[name] + 0.25)
    assert all(torch.equal(weights[other], before[other]) for other in before if other != name)
    CLSRModel.from_pretrained(out)

    save_file({name: moved}, trained / "model.safetensors")
    with pytest.raises(SystemExit):
        run(monkeypatch, "average.py", trained, "--base", tiny_checkpoint, "--out", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_settings_are_chosen_on_sentences_that_the_text_encoder_has_not_learnt(spoken, tmp_path, monkeypatch):
    noises, read = tmp_path / "noise", tmp_path / "data" / "speech"
    noises.mkdir()
    for name in ("noise1", "rir1"):
        soundfile.write(noises / f"{name}.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    rows = tone_rows(read, 8)
    entries = [{"id": row.id, "audio": row.audio, "transcript": "SEA AND BEE", "dur": 1.0} for row in rows]
    (read / "speechocean.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n")
    manifest = spoken / "squad" / "manifest.jsonl"
    monkeypatch.setattr(importlib.import_module("dev_sets"), "FIRST", 20)
    folders = ("--noise_dir", noises, "--out", tmp_path / "dev")
    argv = ["dev_sets.py", tmp_path / "data", "--made", f"squad={manifest}", *folders]
    monkeypatch.setattr(sys, "argv", [*map(str, argv)])
    importlib.import_module("dev_sets").main()
    learnt = {row.context_id for row in read_manifest(manifest)[20:]}
    sets = {name: load_set(tmp_path / "dev" / name) for name in ("squad", "squad-noisy", "read")}
    assert [len(passages) for passages, _ in sets.values()] == [20, 20, 2]
    for name in ("squad", "squad-noisy"):
        assert not learnt & {question.context_id for question in sets[name][1]}
    clean, noisy = (soundfile.read(sets[name][0][0].audio)[0] for name in ("squad", "squad-noisy"))
    assert len(clean) == len(noisy) and not np.allclose(clean, noisy, atol=0.01)
    assert [question.question for question in sets["read"][1]] == ["sea and bee"] * 2
