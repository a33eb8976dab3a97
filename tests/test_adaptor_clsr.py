"""The adaptor `retokenize`: exact forward, honest backward, every kind of recogniser vocabulary."""

import pytest
import torch

from modeling_clsr.adaptor_clsr import RetokenizeAdaptor, recognizer_token_bytes

from .tiny_parts import byte_level_tokenizer, metaspace_tokenizer, tiny_bert, tiny_parts

WORDS = [b"", b" the", b" s", b"ea", b" bee", b"\xc3", b"\xa9", b"!"]


@pytest.fixture
def adaptor():
    made = RetokenizeAdaptor(temperature=1.0, max_text_tokens=32)
    made.set_strings(WORDS, tiny_bert()[1].backend_tokenizer.to_str())
    return made


def test_text_is_joined_with_the_characters_of_each_token(adaptor):
    text, spans = adaptor.text([1, 2, 3, 7])
    assert text == "the sea!"
    assert spans == [(0, 3), (3, 5), (5, 7), (7, 8)]


def test_tokens_that_share_a_character_span_it(adaptor):
    text, spans = adaptor.text([4, 5, 6])
    assert text == "beeé"
    assert spans == [(0, 3), (3, 4), (3, 4)]


def test_broken_utf8_is_replaced_not_raised(adaptor):
    assert adaptor.text([1, 5])[0] == "the\ufffd"


def test_empty_transcript_is_two_special_tokens(adaptor):
    input_ids, mask, offsets = adaptor.tokenize([""])
    assert input_ids.tolist() == [[2, 3]] and mask.tolist() == [[1, 1]] and offsets == [[(0, 0), (0, 0)]]


def test_transcript_longer_than_the_text_encoder_takes_is_cut_with_a_warning(adaptor):
    with pytest.warns(UserWarning, match="clip 0 has 42 tokens but the text encoder takes 32"):
        input_ids, _, _ = adaptor.tokenize(["the " * 40])
    assert input_ids.shape == (1, 32) and input_ids[0, -1] == 3  # still ends with [SEP]


def test_missing_strings_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"retokenizer\.json was not beside the weights"):
        RetokenizeAdaptor(1.0, 32).text([1])


def test_value_is_the_embedding_and_gradient_reaches_only_covering_tokens(adaptor):
    torch.manual_seed(0)
    bert, _ = tiny_bert()
    embedding = bert.get_input_embeddings()
    logits = torch.randn(1, 4, len(WORDS), requires_grad=True)
    text, spans = adaptor.text([1, 2, 3, 7])
    input_ids, _, offsets = adaptor.tokenize([text])
    embeds = adaptor(input_ids, offsets, logits, [spans], embedding)
    assert torch.equal(embeds, embedding(input_ids))
    assert adaptor.tokenizer.decode(input_ids[0].tolist()) == "the sea !"
    embeds[0, 2].sum().backward()  # the text token "sea"
    reached = logits.grad[0].abs().sum(dim=-1) > 0
    assert reached.tolist() == [False, True, True, False]  # " s" and "ea"


def test_gradient_is_that_of_the_expected_embedding(adaptor):
    """One text token covered by one recogniser token: the chain rule through softmax and table, by hand."""
    torch.manual_seed(0)
    embedding = tiny_bert()[0].get_input_embeddings()
    logits = torch.randn(1, 1, len(WORDS), requires_grad=True)
    text, spans = adaptor.text([1])
    input_ids, _, offsets = adaptor.tokenize([text])
    direction = torch.randn(32)
    (adaptor(input_ids, offsets, logits, [spans], embedding)[0, 1] @ direction).backward()
    twin = logits.detach().clone().requires_grad_()
    (twin.softmax(dim=-1)[0, 0] @ adaptor.table @ direction).backward()
    torch.testing.assert_close(logits.grad, twin.grad)


def test_table_marks_the_inside_of_a_word(adaptor):
    bert, tokenizer = tiny_bert()
    weight = bert.get_input_embeddings().weight
    table = adaptor._string_embeddings(bert.get_input_embeddings())
    inside = weight[tokenizer.convert_tokens_to_ids(["##e"])[0]] + weight[tokenizer.convert_tokens_to_ids("##a")]
    torch.testing.assert_close(
        torch.nn.functional.normalize(table[3], dim=0), torch.nn.functional.normalize(inside, dim=0)
    )
    assert torch.equal(table[0], torch.zeros(32))  # a special token says nothing


def test_strings_survive_the_file(adaptor, tmp_path):
    adaptor.save_strings(tmp_path)
    again = RetokenizeAdaptor(1.0, 32)
    again.load_strings(tmp_path / "retokenizer.json")
    assert again.token_bytes == WORDS
    assert again.tokenize(["the sea"])[0].tolist() == adaptor.tokenize(["the sea"])[0].tolist()


def test_byte_level_vocabulary_becomes_bytes():
    tokenizer = byte_level_tokenizer(["<|endoftext|>"])
    tokens = recognizer_token_bytes(tokenizer, len(tokenizer))
    ids = tokenizer("a né!")["input_ids"]
    assert b"".join(tokens[i] for i in ids) == "a né!".encode()
    assert tokens[tokenizer.convert_tokens_to_ids("<|endoftext|>")] == b""


def test_sentencepiece_vocabulary_becomes_bytes_with_spaces():
    tokenizer = metaspace_tokenizer(["<unk>"])
    tokens = recognizer_token_bytes(tokenizer, len(tokenizer) + 1)
    assert tokens[tokenizer.convert_tokens_to_ids("▁the")] == b" the"
    assert tokens[-1] == b""  # the blank behind the tokenizer's last token


def test_ctc_capitals_become_lower_case_and_the_delimiter_a_space(tmp_path):
    parts = tiny_parts("wav2vec2", tmp_path)
    tokens = recognizer_token_bytes(parts.speech_tokenizer, parts.speech.config.vocab_size)
    assert tokens[4] == b" " and tokens[5] == b"a" and tokens[0] == b""
