"""The benchmark sets: right times, right answers, the same again."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.evaluation import sets
from modeling_clsr.evaluation.sets import PASSAGE_S, REAL_MIX, build_set, main, read_questions

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


FLAC_SETS = ("ljspeech", "librivox", "librispeech")  # quick to read


@pytest.fixture(scope="module")
def real_mix(speech_data, tmp_path_factory):
    return sets.build_real_mix(speech_data, tmp_path_factory.mktemp("real-mix"), FLAC_SETS)


def transcripts(speech_data, names=sets.REAL_SETS) -> dict[str, dict]:
    rows = {}
    for name in names:
        lines = (speech_data / "speech" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows |= {row["id"]: row for row in map(json.loads, lines)}
    return rows


@pytest.mark.slow
def test_real_passages_last_8_to_25_seconds_and_answer_their_questions(real_mix):
    passages, questions = real_mix
    lengths = [soundfile.info(row.audio).duration for row in passages]
    # the pause behind the last clip is not written
    assert PASSAGE_S[0] - 0.7 <= min(lengths) and max(lengths) <= PASSAGE_S[1]
    rows = {row.id: row for row in passages}
    assert len(rows) == len(passages) and len(questions) > 60
    assert max(Counter(question.context_id for question in questions).values()) <= 4
    for question in questions:
        passage = rows[question.context_id]
        assert question.answer.lower() in " ".join(passage.transcript.lower().split()), question.id
        ((start, end),) = question.spans
        assert 0 <= start < end <= passage.duration + 0.01


@pytest.mark.slow
def test_span_of_a_question_is_its_clip(real_mix, speech_data):
    clips, (passages, questions) = transcripts(speech_data), real_mix
    asked = {row["id"]: row for row in map(json.loads, REAL_MIX.read_text(encoding="utf-8").splitlines())}
    rows = {row.id: row for row in passages}
    for question in questions[::10]:
        (start, end), clip = question.spans[0], clips[asked[question.id]["clip"]]
        alone = load_audio(speech_data / clip["audio"])
        joined = load_audio(rows[question.context_id].audio)[int(start * 16000) : int(end * 16000)]
        # Opus keeps the loudness over time, not the waveform.
        size = min(len(alone), len(joined)) // 320 * 320
        loudness = [(wave[:size].reshape(-1, 320) ** 2).mean(axis=1) ** 0.5 for wave in (alone, joined)]
        assert size > 0.98 * len(alone) - 320 and np.corrcoef(*loudness)[0, 1] > 0.95, clip["id"]


def test_committed_questions_are_many_and_cover_every_kind_of_speech():
    entries = [json.loads(line) for line in REAL_MIX.read_text(encoding="utf-8").splitlines()]
    kinds = Counter(entry["clip"].split("-")[0][:2] for entry in entries)
    assert len(entries) >= 120 and set(kinds) == {"LJ", "lv", "ls", "rr", "pr"}


def test_questions_are_questions_and_their_clips_hold_the_answers(speech_data):
    clips = transcripts(speech_data)
    entries = [json.loads(line) for line in REAL_MIX.read_text(encoding="utf-8").splitlines()]
    assert (
        len({entry["id"] for entry in entries})
        == len({entry["question"] for entry in entries})
        == len(entries)
    )
    for entry in entries:
        assert entry["question"].endswith("?")
        assert entry["answer"].lower() in " ".join(clips[entry["clip"]]["transcript"].lower().split())


def test_short_rest_goes_to_the_passage_before():
    def run(*seconds):
        return [Row(f"c{n}", "x", "text", speaker="s", duration=length) for n, length in enumerate(seconds)]

    found = sets._joined(run(9.0, 3.0, 24.0, 2.0))
    assert [[clip.id for clip in passage] for passage in found] == [["c0", "c1"], ["c2"]]
    assert sets._joined(run(3.0, 2.0)) == []


def small_data(folder):
    """A data folder with three passages, one meeting and their questions."""
    (folder / "qa").mkdir(parents=True)
    (folder / "SHA256SUMS").write_text("")
    sentences = [
        [
            f"The {name} was built in the year {year} by a man called {man}.",
            "It has stood on the green hill above the little town ever since then, and nobody has changed it.",
        ]
        for name, year, man in (
            ("bridge", 1891, "Smith"),
            ("church", 1702, "Brown"),
            ("school", 1955, "Jones"),
        )
    ]
    import gzip

    with gzip.open(folder / "qa/spoken_squad_passages.jsonl.gz", "wt") as file:
        for number, pair in enumerate(sentences):
            file.write(
                json.dumps({"passage_id": f"p{number}", "title": f"a{number}", "sentences_clean": pair})
                + "\n"
            )
    with (folder / "qa/spoken_squad_test.jsonl").open("w") as file:
        for number, (first, _) in enumerate(sentences):
            for ask in ("Who built it?", "When?"):
                row = {
                    "id": f"q{number}{ask}",
                    "title": f"a{number}",
                    "passage_id": f"p{number}",
                    "question": ask,
                }
                row |= {"answers": [{"text": "x", "start": 0}], "answer_sentence_clean": first}
                file.write(json.dumps(row) + "\n")
    turns = [{"speaker": "AB"[n % 2], "text": f"This is turn number {n} of the meeting."} for n in range(6)]
    meeting = {"id": "m1", "transcript": [*turns, {"speaker": "A", "text": "..."}]}
    meeting["queries"] = [{"query": "What was said in the middle?", "answer": "turns", "spans": [[2, 3]]}]
    with gzip.open(folder / "qa/qmsum.jsonl.gz", "wt") as file:
        file.write(json.dumps(meeting) + "\n")
    return folder


@needs_flite
def test_mini_set_has_one_question_per_clip_of_8_to_15_seconds(tmp_path):
    data = small_data(tmp_path / "data")
    passages, questions = sets.build_spoken_squad_mini(data, tmp_path / "out", "flite/slt")
    assert all(8.0 <= row.duration <= 15.0 for row in passages)
    assert len(questions) == len(passages) == len({q.context_id for q in questions}) >= 1
    again = sets.build_spoken_squad_mini(data, tmp_path / "again", "flite/slt")
    assert [row.id for row in again[0]] == [row.id for row in passages]


@needs_flite
def test_full_set_has_every_question_and_each_sentence_once(tmp_path):
    data = small_data(tmp_path / "data")
    passages, questions = sets.build_spoken_squad_full(data, tmp_path / "out", "flite/slt")
    assert (len(passages), len(questions)) == (3, 6)
    assert {question.context_id for question in questions} == {row.id for row in passages}


@needs_flite
def test_built_set_is_a_folder_that_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sets.BUILDERS, "spoken-squad-full", lambda d, o: sets.build_spoken_squad_full(d, o, "flite/slt")
    )
    out = build_set("spoken-squad-full", small_data(tmp_path / "data"), tmp_path / "out")
    assert len(read_questions(out)) == 6 and len(read_manifest(out / "passages.jsonl")) == 3
    stamp = json.loads((out / "stamp.json").read_text())
    assert (stamp["questions"], stamp["passages"], stamp["set"]) == (6, 3, "spoken-squad-full")


@needs_flite
def test_meeting_is_one_recording_and_the_span_holds_its_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "MIN_MEETING_WORDS", 10)
    data = small_data(tmp_path / "data")
    (passage,), (question,) = sets.build_qmsum_long(data, tmp_path / "out", ("flite/slt", "flite/rms"))
    ((start, end),) = question.spans
    turns = read_manifest(tmp_path / "out" / "turns" / "m1" / "manifest.jsonl")
    before = sum(row.duration + 0.25 for row in turns[:2])
    assert start == pytest.approx(before, abs=0.05)
    assert end - start == pytest.approx(turns[2].duration + 0.25 + turns[3].duration, abs=0.05)
    assert end < passage.duration
    assert {row.speaker for row in turns} == {"flite/slt", "flite/rms"}


def test_missing_data_is_named(tmp_path):
    with pytest.raises(SystemExit, match="has no folder qa; give the data folder"):
        main(["real-mix", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
