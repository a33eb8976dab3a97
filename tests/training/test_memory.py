"""The memory bank: the texts of all rows as candidates."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from modeling_clsr.data.manifest import Row
from modeling_clsr.training.memory import make_bank
from modeling_clsr.training.objective import vector_losses
from tests.training.tiny_runs import arguments

SCALE = torch.tensor([20.0])
CONFIG = SimpleNamespace(contrastive_weight=1.0)


def rows(*contexts):
    return [
        Row(id=f"r{number}", audio="", transcript="t", question="q", context_id=context)
        for number, context in enumerate(contexts)
    ]


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def contrastive(documents, bank, index, folder):
    """The loss of a batch: rows `index` of a bank, with the clips' vectors."""
    index = torch.tensor(index)
    beside = {"row_index": index, "context_groups": bank.groups[index]}
    parts = vector_losses(
        bank.queries[index], documents, SCALE, beside, arguments(folder, "joint"), CONFIG, bank
    )
    return parts["contrastive"].value


def test_clips_meet_all_questions_and_questions_all_other_transcripts(tmp_path):
    pairs, clips = unit(4, 2, 8), unit(2, 8, seed=1)
    bank = make_bank(rows("a", "b", "a", None), pairs)
    questions, transcripts = pairs[:, 0], pairs[:, 1]
    # the batch: rows 3 and 0; row 2 is about the same passage as row 0, so neither is the other's negative
    forward = [
        torch.cat([clips, transcripts[:3]]) @ questions[3],
        torch.cat([clips[1:], clips[:1], transcripts[[1, 3]]]) @ questions[0],
    ]
    backward = [questions[[3, 0, 1, 2]] @ clips[0], questions[[0, 1, 3]] @ clips[1]]
    expected = sum(F.cross_entropy(SCALE * scores[None], torch.tensor([0])) for scores in forward + backward)
    assert contrastive(clips, bank, [3, 0], tmp_path).item() == pytest.approx(expected.item() / 4, rel=1e-5)


def test_a_clip_is_pushed_from_a_question_outside_its_batch(tmp_path):
    bank = make_bank(rows("a", "b", "c"), unit(3, 2, 8))
    clips = F.normalize(bank.queries[[0, 1]] + bank.queries[[2, 2]], dim=-1).requires_grad_()
    contrastive(clips, bank, [0, 1], tmp_path).backward()
    assert (clips.grad @ bank.queries[2] > 0).all()  # a step against the gradient lowers the similarity


@pytest.mark.parametrize("stage", ["post", "dual", "asr"])
def test_a_stage_that_trains_the_text_encoder_or_compares_nothing_has_no_bank(stage, tmp_path):
    with pytest.raises(ValueError, match=f"frozen text encoder makes of questions but stage is '{stage}'"):
        arguments(tmp_path, stage, memory_bank=True)
