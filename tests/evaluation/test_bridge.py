"""`benchmarks/bridge.py`: two arms of two seeds over a small set, in quiet and in noise."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.manifest import Row
from modeling_clsr.evaluation.benchmark_set import BenchmarkSet, Question, write_set

BRIDGE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "bridge.py"))
TRUE = ["cat eats fish", "dog eats meat", "cow eats grass", "bee eats nectar"]


def encode(texts):
    """Count the words that the true sentences have: (N, D) unit vectors."""
    words = sorted({word for text in TRUE for word in text.split()})
    counts = np.array(
        [[text.lower().split().count(word) for word in words] for text in texts], dtype=np.float32
    )
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


@pytest.fixture
def heard(tmp_path):
    """A set of four clips; `joint` hears all, `control` of the second seed and the checkpoint mishear two."""
    (tmp_path / "set").mkdir()
    clip = tmp_path / "clip.wav"  # nobody listens to it
    soundfile.write(clip, np.zeros(1600), 16000)
    passages = [Row(f"p{n}", str(clip), text, context_id=f"c{n}") for n, text in enumerate(TRUE)]
    questions = [Question(f"q{n}", text.split()[0], f"c{n}") for n, text in enumerate(TRUE)]
    write_set(tmp_path / "set", BenchmarkSet(passages, questions))
    misheard = [TRUE[0], TRUE[1], "now eats glass", "pea eats neck"]
    for arm, texts in {
        "checkpoint": misheard,
        "control-1": TRUE,
        "control-2": misheard,
        "joint-1": TRUE,
        "joint-2": TRUE,
    }.items():
        (tmp_path / "heard" / arm).mkdir(parents=True)
        rows = [json.dumps({"id": f"p{n}", "text": text}) for n, text in enumerate(texts)]
        for name in ("set", "set-5dB"):
            (tmp_path / "heard" / arm / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_arms_are_compared_over_seeds_and_conditions(heard):
    arms = BRIDGE["arms_of"](heard / "heard")
    assert {arm: len(seeds) for arm, seeds in arms.items()} == {"checkpoint": 1, "control": 2, "joint": 2}
    table = BRIDGE["compare"](arms, "set", str(heard / "set"), encode)
    assert [row["condition"] for row in table] == ["clean", "5dB"]
    row = table[0]
    assert row["questions"] == 4
    assert row["recall_at_1_of_true_words"]["dense"] == 1.0
    joint, control = row["arms"]["joint"], row["arms"]["control"]
    assert joint["recall_at_1_dense"]["of_seeds"] == [1.0, 1.0]
    assert joint["wer"] == 0.0
    # Two clips without a known word tie: each of four has a quarter of the first place.
    assert control["recall_at_1_dense"]["of_seeds"] == [1.0, 0.625]
    assert control["wer"] == pytest.approx(np.mean([0.0, 4 / 12]))
    test = row["paired"]["joint - control, dense"]
    assert test["difference"] == pytest.approx(1.0 - np.mean([1.0, 0.625]))
    assert row["paired"]["joint - control, wer"]["difference"] == pytest.approx(-control["wer"])


def test_a_clip_that_was_not_heard_is_named(heard):
    file = heard / "heard" / "joint-2" / "set.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="lacks 3 of 4 passages, p1 first; hear them"):
        BRIDGE["compare"](BRIDGE["arms_of"](heard / "heard"), "set", str(heard / "set"), encode)
