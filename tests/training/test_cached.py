"""GradCache: the loss and every gradient of the whole batch, from pieces."""

import pytest
import torch

from modeling_clsr.training.cached import Chance, cached_step, documents_of, split_rows
from modeling_clsr.training.objective import clip_losses, split_batch, total, vector_losses
from modeling_clsr.training.rows import SpeechRows
from modeling_clsr.training.stages import STAGES, prepare_stage
from tests.training.tiny_runs import (
    arguments,
    collator,
    sanm_model,
    sanm_processor,
    tone_rows,
    whisper_parts,
)


class Case:
    """One model, one batch of 6 pairs, and both ways to a gradient."""

    def __init__(self, folder, stage, model, processor, tokenizer=None, dropout=0.0, **fields):
        # In double precision what is wrong is told from what is rounded, on every processor.
        self.model, self.args = model.double(), arguments(folder / "out", stage, **fields)
        self.embeds = STAGES[stage].embeds_clips
        frozen = prepare_stage(model, stage)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        model.train()
        for module in frozen:
            module.eval()
        data = SpeechRows(tone_rows(folder / "tones", 6, shared_context=True), audio=STAGES[stage].uses_clips)
        self.batch = collator(processor, stage, tokenizer=tokenizer)([data[index] for index in range(6)])

    def forward(self, batch):
        return self.model(**split_batch(batch)[0], return_embeds=self.embeds)

    def vector_losses(self, queries, documents, scale, batch):
        return vector_losses(queries, documents, scale, batch, self.args, self.model.config)

    def clip_losses(self, output, batch):
        return clip_losses(output, batch, self.args, self.model.config)

    def gradients(self):
        found = {
            name: weight.grad.clone()
            for name, weight in self.model.named_parameters()
            if weight.grad is not None
        }
        self.model.zero_grad()
        return found

    def plain(self):
        output = self.forward(self.batch)
        parts = self.vector_losses(output.text_embeds, documents_of(output), output.logit_scale, self.batch)
        parts |= self.clip_losses(output, self.batch)
        total(parts).backward()
        return total(parts).item(), self.gradients()

    def cached(self, size):
        last = []

        def backward(loss, is_last):
            loss.backward()
            last.append(is_last)

        parts = cached_step(
            self.batch,
            size,
            self.forward,
            self.vector_losses,
            self.clip_losses,
            backward,
        )
        assert last == [False] * (len(last) - 1) + [True]
        return total(parts).item(), self.gradients()


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("stage", ["joint", "dual", "text"])
def test_pieces_give_the_loss_and_every_gradient_of_the_whole(stage, size, tmp_path):
    case = Case(tmp_path, stage, sanm_model(tmp_path, sampler_ratio=0.01), sanm_processor())
    loss, gradients = case.plain()
    assert gradients
    cached_loss, cached_gradients = case.cached(size)
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    close(cached_gradients, gradients)


def test_pieces_give_the_gradients_of_a_pretrained_recogniser(tmp_path):
    case = Case(tmp_path, "joint", *whisper_parts(tmp_path), embedding_weight=0.0)
    loss, gradients = case.plain()
    cached_loss, cached_gradients = case.cached(2)
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    close(cached_gradients, gradients)


def test_dropout_is_the_same_in_both_passes(tmp_path):
    """The twin: pieces run once, with gradient and the same draws, and one loss over their joined vectors."""
    case = Case(tmp_path, "dual", sanm_model(tmp_path), sanm_processor(), dropout=0.3)
    torch.manual_seed(3)
    outputs = [case.forward(piece) for piece in split_rows(case.batch, 2)]
    queries = torch.cat([output.text_embeds for output in outputs])
    documents = torch.cat([documents_of(output) for output in outputs])
    loss = total(case.vector_losses(queries, documents, outputs[0].logit_scale, case.batch))
    loss.backward()
    expected = case.gradients()
    torch.manual_seed(3)
    cached_loss, found = case.cached(2)
    assert cached_loss == pytest.approx(loss.item(), rel=1e-5)
    close(found, expected)
    torch.manual_seed(4)
    assert case.cached(2)[0] != pytest.approx(loss.item(), rel=1e-5)  # the draws do matter


def test_chance_goes_on_from_where_it_was():
    torch.manual_seed(0)
    chance = Chance([])
    first, second = torch.rand(3), torch.rand(3)
    torch.manual_seed(0)
    torch.rand(3)
    with chance.again():
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), second)
