"""real-mix: passages of the right length, times that are those of the clips, questions with one answer each."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.manifest import Row
from modeling_clsr.evaluation import real_mix
from modeling_clsr.evaluation.benchmark_set import shared_words
from modeling_clsr.evaluation.real_mix import (
    PASSAGE_S,
    PAUSE_S,
    REAL_MIX,
    REAL_SETS,
    build_real_mix,
    join_clips,
    plan_passages,
    split_of,
)

ENTRIES = list(read_json_lines(REAL_MIX))


@pytest.fixture(scope="module")
def plan(speech_data) -> list[list[Row]]:
    return plan_passages(speech_data)


@pytest.fixture(scope="module")
def built(speech_data, tmp_path_factory):
    """The passages of the first twelve clips of LJ Speech and of LibriVox."""
    folder = tmp_path_factory.mktemp("real-mix")
    (folder / "data/speech").mkdir(parents=True)
    for name in ("ljspeech", "librivox"):
        (folder / "data/speech" / name).symlink_to(speech_data / "speech" / name)
        lines = (speech_data / f"speech/{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"data/speech/{name}.jsonl").write_text("".join(lines[:12]), encoding="utf-8")
    return build_real_mix(folder / "data", folder / "out", ("ljspeech", "librivox"))


def words(clips) -> str:
    return " ".join(" ".join(str(clip.transcript) for clip in clips).lower().split())


def test_committed_questions_are_many_and_cover_every_kind_of_speech():
    kinds = Counter(entry["passage"].split("-")[0][:2] for entry in ENTRIES)
    assert len(ENTRIES) >= 150 and set(kinds) == {"LJ", "lv", "ls", "rr", "pr"}


def test_every_question_is_one_and_stands_once():
    assert all(entry["question"].endswith("?") for entry in ENTRIES)
    for name in ("id", "question"):
        assert len({entry[name] for entry in ENTRIES}) == len(ENTRIES)


def test_every_question_names_neighbouring_clips_of_one_passage_that_say_the_answer(plan):
    passages = {clips[0].id: clips for clips in plan}
    for entry in ENTRIES:
        clips = passages[entry["passage"]]
        first = [clip.id for clip in clips].index(entry["clips"][0])
        named = clips[first : first + len(entry["clips"])]
        assert [clip.id for clip in named] == entry["clips"], entry["id"]
        assert entry["answer"].lower() in words(named), entry["id"]


def test_no_passage_is_asked_about_more_than_four_times_and_some_never(plan):
    counts = Counter(entry["passage"] for entry in ENTRIES)
    assert max(counts.values()) <= 4 and len(counts) < len(plan)


def test_questions_mostly_have_other_words_than_their_passages(plan):
    said = {clips[0].id: words(clips) for clips in plan}
    shares = [shared_words(entry["question"], said[entry["passage"]]) for entry in ENTRIES]
    assert np.mean(shares) < 0.5


def test_passages_are_of_one_speaker_and_no_clip_is_in_two(plan):
    assert all(len({clip.speaker for clip in clips}) == 1 for clips in plan)
    names = [clip.id for clips in plan for clip in clips]
    assert len(set(names)) == len(names)


def test_about_half_of_the_speakers_passages_and_questions_are_held_out(plan):
    speaker_of = {clips[0].id: str(clips[0].speaker) for clips in plan}
    asked = [speaker_of[entry["passage"]] for entry in ENTRIES]
    for speakers in (sorted(set(speaker_of.values())), list(speaker_of.values()), asked):
        share = np.mean([split_of(speaker) == "heldout" for speaker in speakers])
        assert 0.4 < share < 0.6


def test_short_rest_goes_to_the_passage_before():
    def run(*seconds):
        return [Row(f"c{n}", "x", "text", speaker="s", duration=length) for n, length in enumerate(seconds)]

    found = join_clips(run(9.0, 3.0, 24.0, 2.0))
    assert [[clip.id for clip in passage] for passage in found] == [["c0", "c1"], ["c2"]]
    assert join_clips(run(3.0, 2.0)) == []


def test_joined_passages_last_8_to_25_seconds(built):
    lengths = [soundfile.info(row.audio).duration for row in built.passages]
    assert PASSAGE_S[0] <= min(lengths) and max(lengths) <= PASSAGE_S[1] + 0.01
    assert [row.duration for row in built.passages] == pytest.approx(lengths, abs=0.01)


def test_span_of_a_question_is_its_clip(built, speech_data):
    clips = {
        row["id"]: row
        for name in ("ljspeech", "librivox")
        for row in read_json_lines(speech_data / f"speech/{name}.jsonl")
    }
    named = {entry["id"]: entry["clips"] for entry in ENTRIES}
    passages = {row.id: row for row in built.passages}
    assert len(built.questions) >= 5
    for question in built.questions:
        (start, end), clip = question.spans[0], clips[named[question.id][0]]
        alone = load_audio(speech_data / clip["audio"])
        joined = load_audio(passages[question.context_id].audio)[int(start * 16000) : int(end * 16000)]
        # Opus keeps the loudness over time, not the waveform.
        size = min(len(alone), len(joined)) // 320 * 320
        loudness = [(wave[:size].reshape(-1, 320) ** 2).mean(axis=1) ** 0.5 for wave in (alone, joined)]
        assert size > len(alone) - 640 and np.corrcoef(*loudness)[0, 1] > 0.95, clip["id"]


def test_pauses_between_clips_last_0_3_to_0_6_seconds(built, plan):
    joined = {clips[0].id: clips for clips in plan}
    for row in built.passages:
        clips = joined[row.id]
        silence = row.duration - sum(clip.duration for clip in clips)
        assert PAUSE_S[0] * (len(clips) - 1) - 0.01 <= silence <= PAUSE_S[1] * (len(clips) - 1) + 0.01


def test_passages_and_questions_have_the_split_of_their_speaker(built):
    assert set(built.splits) == {row.id for row in built.passages}
    assert all(built.splits[row.id] == split_of(row.speaker) for row in built.passages)
    assert all(question.split == built.splits[question.context_id] for question in built.questions)


def test_clip_of_another_joining_rule_is_written_again(speech_data, tmp_path):
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips/lv-0870.opus", np.zeros(16000), 16000, format="OGG", subtype="OPUS")
    content = build_real_mix(speech_data, tmp_path, ("librivox",))
    row = content.passages[0]
    assert soundfile.info(row.audio).duration == pytest.approx(row.duration, abs=0.01)


def test_question_about_another_passage_is_an_error(speech_data, tmp_path, monkeypatch):
    entry = next(entry for entry in ENTRIES if entry["passage"] == "lv-0870")
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(entry | {"clips": ["lv-0920"]}))
    monkeypatch.setattr(real_mix, "REAL_MIX", file)
    with pytest.raises(ValueError, match="names the passage lv-0870 but its clip is in lv-0890"):
        build_real_mix(speech_data, tmp_path, ("librivox",))


def test_all_kinds_of_speech_are_joined(plan):
    assert len(REAL_SETS) == 5
    assert {clips[0].id.split("-")[0][:2] for clips in plan} == {"LJ", "lv", "ls", "rr", "pr"}
