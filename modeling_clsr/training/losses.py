"""Distillation losses, pure functions of tensors. InfoNCE: `contrastive_clsr`; recognition losses: `sampler_clsr`.

Axes: B clips, Q questions, N clips or passages, K hypotheses, F frames, U tokens, V vocabulary, D vector width.
"""

import torch.nn.functional as F
from torch import Tensor


def embedding_distillation(students: Tensor, teachers: Tensor) -> Tensor:
    """Return 1 - cosine of each vector to its teacher's, the text encoder's vector of the true transcript.

    Args:
        students: (B, D).
        teachers: (B, D), no gradient.

    Returns:
        (B,) float32, 0 to 2.
    """
    return 1 - F.cosine_similarity(students.float(), teachers.detach().float(), dim=-1)


def score_distillation(student_scores: Tensor, teacher_scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of each question's distribution over the clips.

    Args:
        student_scores: (Q, N) scaled cosines.
        teacher_scores: (Q, N) cosines of a text retriever on true transcripts, no gradient.
        temperature: divides the teacher's scores.

    Returns:
        Scalar, mean over questions.

    Source: SpeechDPR (Lin et al. 2024, arXiv 2401.13463), distillation of the sentence retriever.
    """
    teacher = (teacher_scores.detach().float() / temperature).log_softmax(dim=-1)
    return F.kl_div(
        student_scores.float().log_softmax(dim=-1), teacher, reduction="batchmean", log_target=True
    )


def agreement_loss(hypothesis_embeds: Tensor, log_probs: Tensor) -> Tensor:
    """Return how far the vectors of a clip's hypotheses lie from their mean.

    Args:
        hypothesis_embeds: (B, K, D) unit vectors of K transcripts of one clip.
        log_probs: (B, K) their log probabilities; a softmax over K weighs the mean.

    Returns:
        (B,): 1 - length of the weighted mean vector; 0 if all agree.
    """
    shares = log_probs.float().softmax(dim=-1)  # (B, K)
    mean = (shares.unsqueeze(-1) * hypothesis_embeds.float()).sum(dim=1)  # (B, D)
    return 1 - mean.norm(dim=-1)


def states_distillation(students: Tensor, teachers: Tensor, mask: Tensor) -> Tensor:
    """Return the error of encoder states, relative to the teacher's energy.

    Args:
        students: (B, F, H).
        teachers: (B, F, H), no gradient.
        mask: (B, F), True on frames that count.

    Returns:
        (B,) float32: squared error over squared norm, each summed over a clip's frames.
    """
    teachers, keep = teachers.detach().float(), mask.unsqueeze(-1).float()
    error = ((students.float() - teachers).square() * keep).sum(dim=(1, 2))
    return error / (teachers.square() * keep).sum(dim=(1, 2)).clamp(min=1e-9)


def distribution_distillation(
    logits: Tensor, teacher_ids: Tensor, teacher_log_probs: Tensor, mask: Tensor
) -> Tensor:
    """Return KL(teacher || student) of token distributions of which the teacher's K best tokens are known.

    The teacher's remaining mass is compared as one event, so that the value is 0 where the student agrees, and never
    negative.

    Args:
        logits: (B, U, V) of the student.
        teacher_ids: (B, U, K) best tokens of the teacher.
        teacher_log_probs: (B, U, K).
        mask: (B, U), True on positions that count.

    Returns:
        (B,) mean over a clip's positions, 0 for none.
    """
    student = logits.float().log_softmax(dim=-1).gather(-1, teacher_ids)  # (B, U, K)
    teacher = teacher_log_probs.float()
    divergence = (teacher.exp() * (teacher - student)).sum(dim=-1)
    rest_teacher, rest_student = _rest(teacher), _rest(student)
    divergence = divergence + rest_teacher * (rest_teacher.log() - rest_student.log())
    return (divergence * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def _rest(log_probs: Tensor) -> Tensor:
    """Return the mass that K tokens leave."""
    return (1 - log_probs.exp().sum(dim=-1)).clamp(min=1e-6)
