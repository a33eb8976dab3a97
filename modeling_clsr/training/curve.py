"""The training curve as a picture, written beside the weights.

Enters: the Trainer's log. Leaves: `training_curve.png`.
"""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

try:
    import matplotlib.figure
except ImportError:  # the "train" extra
    matplotlib = None  # type: ignore[assignment]

CURVE_FILE = "training_curve.png"


class CurveCallback(TrainerCallback):
    """Draw the curve after every evaluation and at the end."""

    def on_evaluate(self, args, state, control, **kwargs):
        """Draw what is known so far."""
        if state.is_world_process_zero:
            draw_curve(state.log_history, Path(args.output_dir) / CURVE_FILE)

    def on_train_end(self, args, state, control, **kwargs):
        """Draw the whole."""
        if state.is_world_process_zero:
            draw_curve(state.log_history, Path(args.output_dir) / CURVE_FILE)


def draw_curve(history: list[dict[str, Any]], file: Path) -> None:
    """Draw losses above and measures of the fixed pool below; nothing without matplotlib or without a step.

    Args:
        history: `TrainerState.log_history`.
        file: PNG to write.
    """
    losses = _series(history, lambda name: name == "loss" or name.startswith("loss_"))
    measures = _series(
        history, lambda name: name.startswith("eval_") and name.split("_")[1] in ("recall", "mrr", "wer")
    )
    if matplotlib is None or not losses:
        return
    figure = matplotlib.figure.Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2 if measures else 1, 1, sharex=True, squeeze=False)[:, 0]
    for axis, lines, label in zip(axes, (losses, measures), ("loss", "fixed pool"), strict=False):
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", label=name)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[-1].set_xlabel("step")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _series(history: list[dict[str, Any]], wanted: Any) -> dict[str, list[tuple[int, float]]]:
    lines: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if wanted(name):
                lines.setdefault(name, []).append((entry["step"], value))
    return lines
