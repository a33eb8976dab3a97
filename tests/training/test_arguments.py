"""Recipes and flags."""

import pytest

from modeling_clsr.training.arguments import parse_arguments


def recipe(folder, text):
    file = folder / "recipe.yaml"
    file.write_text(text)
    return ["--config", str(file)]


def test_flat_recipe_is_read_and_flags_win(tmp_path):
    argv = recipe(
        tmp_path,
        "stage: asr\nlearning_rate: 5e-5\nmax_steps: 7\nskip_bad_rows: true\ntrain_manifest: a.jsonl\n",
    )
    model, data, args = parse_arguments([*argv, "--max_steps", "9", "--output_dir", str(tmp_path)])
    assert (args.stage, args.learning_rate, args.max_steps) == ("asr", 5e-5, 9)
    assert data.skip_bad_rows is True and data.train_manifest == "a.jsonl"
    assert model.config_fields() == {}


def test_config_fields_are_those_that_were_given():
    model, _, _ = parse_arguments(
        ["--decoder_type", "sanm", "--sampler_ratio", "0.5", "--tie_output", "false"]
    )
    assert model.config_fields() == {"decoder_type": "sanm", "sampler_ratio": 0.5, "tie_output": False}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rte", "1"], "the command line has learning_rte, .* did you mean learning_rate?"),
        (
            ["--stage", "magic"],
            "stage is 'magic' but must be one of asr, text, joint, post, dual, selfdistil",
        ),
        (
            ["--per_device_train_batch_size", "1"],
            "stage 'joint' compares clips within a batch but per_device_train_batch_size is 1",
        ),
        (
            ["--per_device_train_batch_size", "6", "--mini_batch_size", "4"],
            "mini_batch_size is 4 but per_device_train_batch_size is 6",
        ),
        (["--config", "nowhere.yaml"], "--config names nowhere.yaml, which is not there"),
        (["--config"], "--config has no value"),
    ],
)
def test_wrong_argument_is_named_with_the_remedy(argv, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        parse_arguments(argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rte: 1\n",
            "recipe.yaml has learning_rte, which is no argument; did you mean learning_rate?",
        ),
        ("model: {size: 3}\n", "model holds a dict but recipes are flat"),
        ("- a\n- b\n", "holds a list but a recipe is a flat list of 'key: value'"),
    ],
)
def test_wrong_recipe_is_named_with_the_remedy(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_arguments(recipe(tmp_path, text))


def test_best_checkpoint_is_that_of_the_stages_measure(tmp_path):
    base = ["--load_best_model_at_end", "true", "--eval_strategy", "steps", "--output_dir", str(tmp_path)]
    _, _, joint = parse_arguments([*base, "--save_strategy", "steps"])
    _, _, asr = parse_arguments([*base, "--save_strategy", "steps", "--stage", "asr"])
    assert (joint.metric_for_best_model, joint.greater_is_better) == ("eval_recall_at_1", True)
    assert (asr.metric_for_best_model, asr.greater_is_better) == ("eval_wer", False)


def test_every_recipe_of_the_repository_is_read():
    from pathlib import Path

    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipes
    for file in recipes:
        parse_arguments(["--config", str(file)])
