"""The strings of a checkpoint: every kind of vocabulary becomes text, and text the text encoder's tokens."""

import pytest

from modeling_clsr.strings_clsr import TokenStrings, token_bytes_of

from .tiny_parts import byte_level_tokenizer, metaspace_tokenizer, tiny_bert, tiny_parts

WORDS = [b"", b" the", b" s", b"ea", b" bee", b"\xc3", b"\xa9", b"!"]


@pytest.fixture
def strings():
    made = TokenStrings(max_text_tokens=32)
    made.fill(WORDS, tiny_bert()[1].backend_tokenizer.to_str())
    return made


def test_text_is_joined_with_the_characters_of_each_token(strings):
    text, spans = strings.text([1, 2, 3, 7])
    assert text == "the sea!"
    assert spans == [(0, 3), (3, 5), (5, 7), (7, 8)]


def test_tokens_that_share_a_character_span_it(strings):
    text, spans = strings.text([4, 5, 6])
    assert text == "beeé"
    assert spans == [(0, 3), (3, 4), (3, 4)]


def test_broken_utf8_is_replaced_not_raised(strings):
    assert strings.text([1, 5])[0] == "the\ufffd"


def test_empty_transcript_is_two_special_tokens(strings):
    input_ids, mask, offsets = strings.tokenize([""])
    assert input_ids.tolist() == [[2, 3]] and mask.tolist() == [[1, 1]] and offsets == [[(0, 0), (0, 0)]]


def test_transcript_longer_than_the_text_encoder_takes_is_cut_with_a_warning(strings):
    with pytest.warns(UserWarning, match="clip 0 has 42 tokens but the text encoder takes 32"):
        input_ids, _, _ = strings.tokenize(["the " * 40])
    assert input_ids.shape == (1, 32) and input_ids[0, -1] == 3  # still ends with [SEP]


def test_missing_strings_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"retokenizer\.json was not beside the weights"):
        TokenStrings(32).text([1])


def test_strings_survive_the_file(strings, tmp_path):
    strings.save(tmp_path)
    again = TokenStrings(32)
    again.load(tmp_path / "retokenizer.json")
    assert again.token_bytes == WORDS
    assert again.tokenize(["the sea"])[0].tolist() == strings.tokenize(["the sea"])[0].tolist()


def test_byte_level_vocabulary_becomes_bytes():
    tokenizer = byte_level_tokenizer(["<|endoftext|>"])
    tokens = token_bytes_of(tokenizer, len(tokenizer))
    ids = tokenizer("a né!")["input_ids"]
    assert b"".join(tokens[i] for i in ids) == "a né!".encode()
    assert tokens[tokenizer.convert_tokens_to_ids("<|endoftext|>")] == b""


def test_sentencepiece_vocabulary_becomes_bytes_with_spaces():
    tokenizer = metaspace_tokenizer(["<unk>"])
    tokens = token_bytes_of(tokenizer, len(tokenizer) + 1)
    assert tokens[tokenizer.convert_tokens_to_ids("▁the")] == b" the"
    assert tokens[-1] == b""  # the blank behind the tokenizer's last token


def test_ctc_capitals_become_lower_case_and_the_delimiter_a_space(tmp_path):
    parts = tiny_parts("wav2vec2", tmp_path)
    tokens = token_bytes_of(parts.speech_tokenizer, parts.speech.config.vocab_size)
    assert tokens[4] == b" " and tokens[5] == b"a" and tokens[0] == b""


def test_word_pieces_become_bytes_with_spaces():
    tokenizer = tiny_bert()[1]
    tokens = token_bytes_of(tokenizer, len(tokenizer))
    ids = tokenizer("the beeb", add_special_tokens=False)["input_ids"]
    assert b"".join(tokens[i] for i in ids) == b" the beeb"
    assert tokens[tokenizer.cls_token_id] == b""


def test_frame_is_what_the_tokenizer_puts_around_a_text(strings):
    assert strings.frame() == ([2], [3])
