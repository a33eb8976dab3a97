"""Stages of training: what learns, what is frozen, and which columns each needs.

Enters: a model. Leaves: the same model with `requires_grad` set, and the modules that stay in evaluation mode.
"""

import re
from dataclasses import dataclass

from torch import nn

from ..modeling_clsr import CLSRModel
from ..parallel_clsr import ParallelRecognizer
from ..recognizer_clsr import speech_encoder_of


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        trains: parts that learn: "encoder" (of speech), "decoder" (the rest of the recogniser), "adaptor", "text",
            "scale" (the learned temperature).
        needs: columns that every row must have.
        uses_clips: whether it hears the audio.
        embeds_clips: whether it needs the clips' vectors.
    """

    trains: frozenset[str]
    needs: tuple[str, ...]
    uses_clips: bool = True
    embeds_clips: bool = True


RECOGNIZER = ("encoder", "decoder")
STAGES = {
    # the recogniser alone
    "asr": Stage(frozenset(RECOGNIZER), ("audio", "transcript"), embeds_clips=False),
    # the text encoder on clean pairs of question and transcript
    "text": Stage(frozenset(("text", "scale")), ("question", "transcript"), uses_clips=False),
    # the recogniser through the bridge, the text encoder frozen
    "joint": Stage(frozenset((*RECOGNIZER, "adaptor", "scale")), ("audio", "question", "transcript")),
    # the text encoder on what the frozen recogniser writes
    "post": Stage(frozenset(("text", "scale")), ("audio", "question")),
    # everything: the plain dual encoder (adaptor "projection"), no recognition loss
    "dual": Stage(frozenset((*RECOGNIZER, "adaptor", "text", "scale")), ("audio", "question")),
    # the speech encoder at true length learns from itself at the full window: audio only
    "selfdistil": Stage(frozenset(("encoder",)), ("audio",), embeds_clips=False),
}


def prepare_stage(model: CLSRModel, name: str, trainable: str | None = None) -> list[nn.Module]:
    """Freeze what the stage does not train.

    Args:
        model: changed in place.
        name: of the stage.
        trainable: regular expression; of the parameters that the stage trains, only those whose name it matches.

    Returns:
        The modules without a trained parameter, outermost first, which must stay in evaluation mode.

    Raises:
        ValueError: nothing is left to train.
    """
    stage, pattern = STAGES[name], re.compile(trainable or "")
    parts = {id(parameter): part for part, parameter in _parameters_by_part(model)}
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(parts[id(parameter)] in stage.trains and bool(pattern.search(path)))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"trainable is {trainable!r} but matches no parameter that the stage {name!r} trains "
            f"({', '.join(sorted(stage.trains))}); see model.named_parameters()"
        )
    return _frozen(model)


def _parameters_by_part(model: CLSRModel):
    """Yield (part, parameter); the first part that claims a shared parameter keeps it."""
    seen: set[int] = set()
    speech = model.speech_model
    encoder = speech.encoder if isinstance(speech, ParallelRecognizer) else speech_encoder_of(speech)
    for part, module in (
        ("encoder", encoder),
        ("decoder", speech),
        ("adaptor", model.adaptor),
        ("text", model.text_model),
        ("scale", model),
    ):
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield part, parameter


def _frozen(module: nn.Module) -> list[nn.Module]:
    """List the outermost modules that have parameters and train none; dropout and the like go with their parent."""
    found: list[nn.Module] = []
    for child in module.children():
        trained = [parameter.requires_grad for parameter in child.parameters()]
        if trained and not any(trained):
            found.append(child)
        elif trained:
            found.extend(_frozen(child))
    return found
