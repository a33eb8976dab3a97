"""What each stage trains and what stays frozen."""

import pytest

from modeling_clsr.training.stages import STAGES, prepare_stage
from tests.tiny_parts import tiny_parts
from tests.training.tiny_runs import sanm_model


def trained(model) -> set[str]:
    return {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("asr", {"speech_model"}),
        ("text", {"text_model", "logit_scale"}),
        ("joint", {"speech_model", "logit_scale"}),
        ("post", {"text_model", "logit_scale"}),
        ("dual", {"speech_model", "text_model", "logit_scale"}),
        ("selfdistil", {"speech_model"}),
    ],
)
def test_stage_trains_its_parts_and_no_others(stage, expected, tmp_path):
    model = tiny_parts("whisper", tmp_path).model()
    frozen = prepare_stage(model, stage)
    assert trained(model) == expected
    model.train()
    for module in frozen:
        module.eval()
    for name, module in model.named_modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            assert not module.training, name
        if any(weight.requires_grad for weight in module.parameters(recurse=False)):
            assert module.training, name


def test_selfdistil_trains_the_encoder_alone(tmp_path):
    model = tiny_parts("whisper", tmp_path).model()
    prepare_stage(model, "selfdistil")
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert names and all(name.startswith("speech_model.model.encoder.") for name in names)


def test_sampler_stays_in_training_mode_where_the_recogniser_learns(tmp_path):
    model = sanm_model(tmp_path)
    frozen = prepare_stage(model, "joint")
    model.train()
    for module in frozen:
        module.eval()
    assert model.speech_model.sampler.training
    assert not model.text_model.training


def test_trainable_narrows_a_stage_and_refuses_to_leave_nothing(tmp_path):
    model = tiny_parts("whisper", tmp_path).model()
    prepare_stage(model, "joint", r"decoder\.layers\.1\.")
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert names and all("decoder.layers.1." in name for name in names)
    with pytest.raises(ValueError, match="trainable is 'nothing_like_it' but matches no parameter"):
        prepare_stage(model, "joint", "nothing_like_it")


def test_every_stage_needs_columns_that_rows_have():
    from modeling_clsr.data.manifest import Row

    fields = Row.__dataclass_fields__
    assert all(column in fields for stage in STAGES.values() for column in stage.needs)
