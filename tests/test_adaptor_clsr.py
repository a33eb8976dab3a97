"""The adaptor `retokenize`: exact forward, honest backward."""

import pytest
import torch

from modeling_clsr.adaptor_clsr import RetokenizeAdaptor
from modeling_clsr.strings_clsr import TokenStrings

from .tiny_parts import tiny_bert

WORDS = [b"", b" the", b" s", b"ea", b" bee", b"\xc3", b"\xa9", b"!"]


@pytest.fixture
def adaptor():
    strings = TokenStrings(max_text_tokens=32)
    strings.fill(WORDS, tiny_bert()[1].backend_tokenizer.to_str())
    return RetokenizeAdaptor(1.0, strings)


def test_value_is_the_embedding_and_gradient_reaches_only_covering_tokens(adaptor):
    torch.manual_seed(0)
    bert, _ = tiny_bert()
    embedding = bert.get_input_embeddings()
    logits = torch.randn(1, 4, len(WORDS), requires_grad=True)
    text, spans = adaptor.strings.text([1, 2, 3, 7])
    input_ids, _, offsets = adaptor.strings.tokenize([text])
    embeds = adaptor(input_ids, offsets, logits, [spans], embedding)
    assert torch.equal(embeds, embedding(input_ids))
    assert adaptor.strings.tokenizer.decode(input_ids[0].tolist()) == "the sea !"
    embeds[0, 2].sum().backward()  # the text token "sea"
    reached = logits.grad[0].abs().sum(dim=-1) > 0
    assert reached.tolist() == [False, True, True, False]  # " s" and "ea"


def test_gradient_is_that_of_the_expected_embedding(adaptor):
    """One text token covered by one recogniser token: the chain rule through softmax and table, by hand."""
    torch.manual_seed(0)
    embedding = tiny_bert()[0].get_input_embeddings()
    logits = torch.randn(1, 1, len(WORDS), requires_grad=True)
    text, spans = adaptor.strings.text([1])
    input_ids, _, offsets = adaptor.strings.tokenize([text])
    direction = torch.randn(32)
    (adaptor(input_ids, offsets, logits, [spans], embedding)[0, 1] @ direction).backward()
    twin = logits.detach().clone().requires_grad_()
    (twin.softmax(dim=-1)[0, 0] @ adaptor.table @ direction).backward()
    torch.testing.assert_close(logits.grad, twin.grad)


def test_table_marks_the_inside_of_a_word(adaptor):
    bert, tokenizer = tiny_bert()
    weight = bert.get_input_embeddings().weight
    table = adaptor.embed_strings(bert.get_input_embeddings())
    inside = (
        weight[tokenizer.convert_tokens_to_ids(["##e"])[0]] + weight[tokenizer.convert_tokens_to_ids("##a")]
    )
    torch.testing.assert_close(
        torch.nn.functional.normalize(table[3], dim=0), torch.nn.functional.normalize(inside, dim=0)
    )
    assert torch.equal(table[0], torch.zeros(32))  # a special token says nothing
