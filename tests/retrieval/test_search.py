"""Search: by vectors, by words, by both; filters, spoken questions, merged neighbours."""

import asyncio
from datetime import UTC, date, datetime

import numpy as np
import pytest

from modeling_clsr import Word
from modeling_clsr.data.audio import load_audio
from modeling_clsr.retrieval import SpeechIndex
from modeling_clsr.retrieval.doubt import Doubt, Evidence
from modeling_clsr.retrieval.letters import letter_shares
from modeling_clsr.retrieval.moments import Moment
from modeling_clsr.retrieval.reader import TableReader
from modeling_clsr.retrieval.search import Hit, glob_condition, merge_overlapping

from .conftest import write_talks
from .known_clips import KnownClips, embed


@pytest.fixture(scope="module")
def index(tmp_path_factory, clips) -> SpeechIndex:
    folder = tmp_path_factory.mktemp("searched")
    write_talks(folder / "talks", clips)
    index = SpeechIndex.create(folder / "index", KnownClips(clips))
    index.add([folder / "talks"])
    return index


def test_score_is_the_mean_of_both_cosines_and_hits_come_best_first(index):
    question = "Printing, in the only sense"
    hits = index.search(question, k=50, mode="dense")
    assert len(hits) == len(index)
    for hit in hits:
        passage = float(embed(hit.transcript) @ embed(question))
        assert hit.score == pytest.approx((passage + hit.moment.score) / 2, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.search(question, k=1, mode="dense") == hits[:1]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.wav", {"a.wav", "it's 100%_c.wav"}),
        ("talks/b.*", {"b.flac"}),
        ("?.wav", {"a.wav"}),
        ("it's 100%_c.wav", {"it's 100%_c.wav"}),
    ],
)
def test_only_files_that_match_are_searched(index, pattern, names):
    assert {hit.source.rsplit("/", 1)[1] for hit in index.search("printing", k=50, file=pattern)} == names


@pytest.mark.parametrize("pattern", ["it's 1000_c.wav", "alks/a.wav", "A.WAV", "/a.wav", "[ab].wav"])
def test_pattern_without_a_match_is_an_error(index, pattern):
    with pytest.raises(ValueError, match=r"leaves no recording of the index; `\*` in a path stands for any"):
        index.search("printing", file=pattern)


def test_glob_signs_of_the_filter_language_are_escaped():
    assert glob_condition("/x/a_b%c*.o?g") == r"source LIKE '/x/a\_b\%c%.o_g'"


@pytest.mark.parametrize(("question", "k", "message"), [(" ", 5, "question is ' '"), ("who?", 0, "k is 0")])
def test_empty_question_and_no_hits_are_refused(index, question, k, message):
    with pytest.raises(ValueError, match=message):
        index.search(question, k=k)


def test_zero_and_missing_vectors_are_never_returned(index):
    """What the table does with rows that have no vector is the database's word; hold it to it."""
    assert all(np.isfinite(hit.score) for hit in index.search("printing", k=100))


def test_words_find_what_says_them_and_the_fused_list_has_both(index, talks_texts):
    rare = max((word for text in talks_texts for word in text.split()), key=len).strip(".,;")
    worded = index.search(f"what about {rare}?", k=50, mode="text")
    assert worded and all(rare.lower() in hit.transcript.lower() for hit in worded[:1])
    assert [hit.score for hit in worded] == sorted((hit.score for hit in worded), reverse=True)
    both = index.search(f"what about {rare}?", k=50)
    dense = index.search(f"what about {rare}?", k=50, mode="dense")
    places = {(hit.source, hit.start_s) for hit in both}
    assert places == {(hit.source, hit.start_s) for hit in [*dense, *worded]}
    assert index.search('odd: "(marks) AND -more', k=3, mode="text") is not None
    with pytest.raises(ValueError, match="mode is 'magic' but must be one of hybrid, dense, text"):
        index.search("printing", mode="magic")


def test_words_that_nobody_said_are_no_error(index):
    assert index.search("xylophones", mode="text") == []


def test_rows_that_another_process_rewrites_during_a_search_are_searched_again(tmp_path, clips, monkeypatch):
    write_talks(tmp_path / "talks", clips)
    index = SpeechIndex.create(tmp_path / "index", KnownClips(clips))
    index.add([tmp_path / "talks"])
    before = {(hit.source, hit.start_s, hit.transcript) for hit in index.search("printing art", k=50)}
    find, moves = TableReader.nearest, []

    def move():
        index._table.merge_insert("id").when_matched_update_all().execute(index._table.to_arrow())

    async def find_then_move(*args):
        found = await find(*args)
        if len(moves) < 2:
            await asyncio.to_thread(move)
            moves.append(found)
        return found

    monkeypatch.setattr(TableReader, "nearest", find_then_move)
    after = {(hit.source, hit.start_s, hit.transcript) for hit in index.search("printing art", k=50)}
    assert after == before and len(after) == len(index)
    assert len(moves) == 2 and not moves[0].keys() & moves[1].keys()


@pytest.fixture(scope="module")
def talks_texts(clips):
    return list(clips)


def test_rows_that_no_index_has_yet_are_found_by_their_words(tmp_path, clips, talks_texts):
    write_talks(tmp_path / "talks", clips)
    index = SpeechIndex.create(tmp_path / "index", KnownClips(clips))
    index.add([tmp_path / "talks" / "a.wav"])
    late = SpeechIndex.open(tmp_path / "index", KnownClips(clips))
    late.maintain = lambda: None
    late.add([tmp_path / "talks" / "b.flac"])
    hits = index.search(talks_texts[5], k=1, mode="text")
    assert hits[0].source.endswith("b.flac")


def test_only_files_of_the_days_asked_for_are_searched(tmp_path, clips):
    import os

    where = write_talks(tmp_path / "talks", clips)
    for name, day in zip(where, (1, 2, 3), strict=True):
        moment = datetime(2026, 5, day, 12, tzinfo=UTC).timestamp()
        os.utime(tmp_path / "talks" / name, (moment, moment))
    index = SpeechIndex.create(tmp_path / "index", KnownClips(clips))
    index.add([tmp_path / "talks"])

    def found(**filters):
        return {hit.recorded.day for hit in index.search("printing", k=50, **filters)}

    assert found(after=date(2026, 5, 2)) == {2, 3} and found(before=date(2026, 5, 2)) == {1}
    assert found(after=date(2026, 5, 2), before=date(2026, 5, 3), mode="dense") == {2}
    assert found(after=date(2026, 5, 1), file="b.flac") == {2}
    with pytest.raises(ValueError, match="after 2027-01-01 leaves no recording"):
        index.search("printing", after=date(2027, 1, 1))


def test_excluded_files_are_not_searched(index):
    assert not any(hit.source.endswith("a.wav") for hit in index.search("printing", k=50, exclude="a.*"))
    with pytest.raises(ValueError, match=r"file a\.wav, exclude \*\.wav leaves no recording"):
        index.search("printing", file="a.wav", exclude="*.wav")


def test_hits_of_a_calibrated_checkpoint_carry_probabilities_that_do_not_depend_on_k(index, monkeypatch):
    assert index.search("printing")[0].probability is None
    monkeypatch.setattr(index.encoder, "doubt", Doubt((2.0, 2.0, 0.1, 5.0, 0.1), -3.0, 0.5))
    many, one = index.search("printing", k=10), index.search("printing", k=1)
    assert one[0].probability == many[0].probability
    assert all(0 < hit.probability < 1 for hit in many)


def test_hybrid_adds_the_shares_of_the_best_words_and_letters_of_the_whole_index(index):
    hits = index.search("printing art", k=50)
    best = max(hit.evidence.bm25 for hit in hits)
    letters = letter_shares("printing art", [hit.transcript for hit in hits])
    assert best > 0 and letters.max() > 0 and hits[0].score == max(hit.score for hit in hits)
    for hit, share in zip(hits, letters, strict=True):
        cosines = (hit.evidence.passage + hit.evidence.moment) / 2
        assert hit.score == pytest.approx(cosines + 0.2 * hit.evidence.bm25 / best + 0.1 * share)


def test_letters_count_in_a_hybrid_search_alone(index):
    for mode, counted in (("hybrid", True), ("dense", False), ("text", False)):
        assert any(hit.evidence.letters for hit in index.search("printing art", mode=mode)) == counted


def test_spoken_question_is_asked_by_its_own_vector_and_words(index, clips, talks_texts):
    for mode in ("dense", "text", "hybrid"):
        hit = index.search(clips[talks_texts[2]], k=1, mode=mode)[0]
        assert talks_texts[2] in hit.transcript
    with pytest.raises(ValueError, match=r"spoken question of 1\.0 s no words were heard"):
        index.search(np.zeros(16000, np.float32))


def hit(start, words, source="/a.wav", moment=None):
    text = " ".join(words)
    timed = [Word(word, start + place, start + place + 0.9, 1.0) for place, word in enumerate(words)]
    end = start + len(words)
    found = None
    if moment:
        at = text.index(moment)
        found = Moment(moment, start, end, 0.5, at, at + len(moment))
    return Hit(
        source,
        source,
        datetime(2026, 1, 1, tzinfo=UTC),
        start,
        end,
        0.0,
        text,
        timed,
        found,
        Evidence(0.5, 0.5, 0.0),
    )


def test_neighbours_that_overlap_become_one_and_the_better_keeps_its_moment():
    better = hit(10.0, ["c", "d", "e"], moment="d e")
    before, after = hit(8.0, ["a", "b", "x"]), hit(12.0, ["y", "f", "g"])
    other = hit(10.0, ["c"], source="/b.wav")
    joined, alone = merge_overlapping([better, other, before, after])
    assert (joined.transcript, joined.start_s, joined.end_s) == ("a b c d e f g", 8.0, 15.0)
    assert [word.text for word in joined.words] == ["a", "b", "c", "d", "e", "f", "g"]
    assert joined.transcript[joined.moment.start_char : joined.moment.end_char] == "d e"
    assert alone == other
    apart = [hit(0.0, ["a"]), hit(1.0, ["b"])]
    assert merge_overlapping(apart) == apart


def test_spoken_question_can_come_from_a_file(index, clips, talks_texts, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "q.flac", clips[talks_texts[7]], 16000)
    assert talks_texts[7] in index.search(load_audio(tmp_path / "q.flac"), k=1)[0].transcript
