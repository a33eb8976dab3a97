"""Speech from text: the same again, resumable, and split by text and voice."""

import json
import shutil

import pytest
import soundfile

from modeling_clsr.data.manifest import read_manifest
from modeling_clsr.data.synthesis import Utterance, main, read_texts, speak_manifest, split_by_text_and_voice
from modeling_clsr.data.voices import open_voice

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
TEXTS = [Utterance(f"t{number}", f"Sentence number {number} is spoken here.") for number in range(4)]


def samples(folder):
    return {path.stem: soundfile.read(path)[0].tolist() for path in sorted((folder / "clips").glob("*.opus"))}


@needs_flite
def test_same_seed_gives_the_same_clips_and_another_seed_others(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        speak_manifest(TEXTS, tmp_path / folder, ["flite/slt", "flite/rms"], seed=seed)
    assert samples(tmp_path / "a") == samples(tmp_path / "b")
    assert samples(tmp_path / "a") != samples(tmp_path / "c")
    speakers = {row.speaker for row in read_manifest(tmp_path / "a" / "manifest.jsonl")}
    assert speakers <= {"flite/slt", "flite/rms"}


@needs_flite
def test_second_run_makes_only_what_is_missing(tmp_path):
    speak_manifest(TEXTS, tmp_path, ["flite/slt"])
    clips = sorted((tmp_path / "clips").glob("*.opus"))
    before = {clip.name: clip.stat().st_mtime_ns for clip in clips}
    clips[1].unlink()
    (tmp_path / "clips" / "t3.opus.tmp").write_bytes(b"half a cl")  # of a killed run
    manifest = speak_manifest(TEXTS, tmp_path, ["flite/slt"])
    after = {clip.name: clip.stat().st_mtime_ns for clip in clips}
    assert [name for name in before if before[name] != after[name]] == [clips[1].name]
    assert [row.id for row in read_manifest(manifest)] == ["t0", "t1", "t2", "t3"]


@needs_flite
def test_another_text_voice_or_seed_under_the_same_id_is_another_clip(tmp_path):
    ways = [("Yes.", "slt", 0), ("No, not today.", "slt", 0), ("Yes.", "rms", 0), ("Yes.", "slt", 1)]
    found = []
    for text, voice, seed in ways:
        manifest = speak_manifest([Utterance("a", text)], tmp_path, [f"flite/{voice}"], seed=seed)
        (row,) = read_manifest(manifest)
        assert (row.id, row.transcript, row.speaker) == ("a", text, f"flite/{voice}")
        found.append(row.audio)
    assert len(set(found)) == 4
    rows = read_manifest(
        speak_manifest([Utterance("a 1", "Yes."), Utterance("a_1", "No.")], tmp_path, ["flite/slt"])
    )
    assert rows[0].audio != rows[1].audio


@needs_flite
def test_processes_give_what_one_process_gives(tmp_path):
    one = speak_manifest(TEXTS, tmp_path / "one", ["flite/slt", "flite/awb"], workers=1)
    two = speak_manifest(TEXTS, tmp_path / "two", ["flite/slt", "flite/awb"], workers=2)
    assert one.read_text() == two.read_text()
    assert samples(tmp_path / "one") == samples(tmp_path / "two")


@needs_flite
def test_every_question_of_a_text_is_a_row_over_one_clip(tmp_path):
    lines = [("It rained.", "What fell?"), ("It rained.", "How was it?"), ("He ran.", "Who ran?")]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"s": text, "q": asked}) + "\n" for text, asked in lines))
    main(
        [str(file), "--text", "s", "--question", "q", "--voices", "flite/slt", "--out", str(tmp_path / "out")]
    )
    rows = read_manifest(tmp_path / "out" / "manifest.jsonl", needs=("audio", "question", "transcript"))
    assert [row.question for row in rows] == ["What fell?", "How was it?", "Who ran?"]
    assert rows[0].audio == rows[1].audio != rows[2].audio
    assert rows[0].context_id == rows[1].context_id != rows[2].context_id


@needs_espeak
def test_espeak_speaks_at_the_pace_it_is_told(tmp_path):
    speak = open_voice("espeak/en-gb+f2")
    slow, fast = (
        speak("One two three four five six seven.", 0.8),
        speak("One two three four five six seven.", 1.3),
    )
    assert 1.3 < len(slow) / len(fast) < 2.0
    assert abs(slow).max() > 0.05


def test_training_and_test_share_neither_texts_nor_voices():
    texts = [Utterance(f"u{n}", f"text {n}", context_id=f"c{n // 3}") for n in range(300)]
    train, test = split_by_text_and_voice(texts, ["flite/slt", "flite/rms"], ["piper/joe"], share=0.2)
    assert len(train) + len(test) == 300 and 30 <= len(test) <= 90
    assert not {u.context_id for u in train} & {u.context_id for u in test}
    assert {u.voice for u in test} == {"piper/joe"} and "piper/joe" not in {u.voice for u in train}
    with pytest.raises(ValueError, match="the voice piper/joe is in voices and in held_out"):
        split_by_text_and_voice(texts, ["piper/joe"], ["piper/joe"])


def test_text_without_a_question_is_a_row_without_one(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"text": "It rained.", "question": null}\n{"text": "He ran.", "question": "Who ran?"}\n')
    assert list(read_texts(file, question="question")) == [
        Utterance("pairs-000000", "It rained."),
        Utterance("pairs-000001", "He ran.", questions=("Who ran?",)),
    ]


def test_texts_are_joined_to_the_length_asked_for(tmp_path):
    file = tmp_path / "few.txt"
    file.write_text("One is here.\nTwo is here.\nThree is here.\n")
    assert [u.text for u in read_texts(file, join_to=20)] == ["One is here. Two is here.", "Three is here."]
    assert [u.text for u in read_texts(file)] == ["One is here.", "Two is here.", "Three is here."]


@pytest.mark.parametrize(
    ("texts", "voices", "message"),
    [
        ([Utterance("a", "yes"), Utterance("b", " ")], ["flite/slt"], r"text 2 \(b\) is empty"),
        ([Utterance("a", "yes"), Utterance("a", "no")], ["flite/slt"], "text 2 has the id 'a' of text 1"),
        ([Utterance("a", "yes")], ["flite/nobody"], "the voice is 'flite/nobody' but must be one of"),
    ],
)
def test_what_cannot_be_spoken_is_named(texts, voices, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        speak_manifest(texts, tmp_path, voices)


def test_missing_engine_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="the voice needs the program flite, which is not on the path"):
        speak_manifest([Utterance("a", "yes")], tmp_path / "out", ["flite/slt"])
