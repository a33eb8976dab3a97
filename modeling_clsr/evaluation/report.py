"""Figures to a report: JSON with its stamp, a Markdown table, a picture.

Enters: what `evaluator` found. Leaves: `results.json`, `table.md` and `recall.png` in one folder.
"""

from pathlib import Path
from typing import Any

from ..hub.stamp import write_stamped

try:
    import matplotlib.figure
except ImportError:  # the "train" extra
    matplotlib = None  # type: ignore[assignment]

COLUMNS = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "hit_at_5": "hit@5",
    "mrr_at_10": "MRR@10",
    "ndcg_at_10": "nDCG@10",
    "wer": "WER",
    "times_real_time": "× real time",
}


def write_report(folder: str | Path, figures: dict[str, Any], stamp: dict[str, Any], **inputs: Any) -> Path:
    """Write the three files.

    Args:
        folder: made if absent.
        figures: {set: what `evaluate_systems` returned}.
        stamp: from `make_stamp`, taken before the measurement.
        **inputs: what else the figures depended on.

    Returns:
        `folder`.
    """
    folder = Path(folder)
    write_stamped(folder / "results.json", figures, stamp, **inputs)
    (folder / "table.md").write_text(markdown(figures), encoding="utf-8")
    draw_recall(figures, folder / "recall.png")
    return folder


def markdown(figures: dict[str, Any]) -> str:
    """Return a table for each set, with 95 % intervals of R@1, and the paired tests."""
    blocks = []
    for name, found in figures.items():
        used = [key for key in COLUMNS if any(row.get(key) is not None for row in found["systems"].values())]
        lines = [
            f"## {name}",
            "",
            f"| system | {' | '.join(COLUMNS[key] for key in used)} |",
            "|---|" + "---|" * len(used),
        ]
        for system, row in found["systems"].items():
            lines.append(f"| {system} | {' | '.join(_shown(row, key) for key in used)} |")
        lines.append("")
        for pair, tests in found["paired"].items():
            test = tests["recall_at_1"]
            lines.append(
                f"- {pair}, R@1: {100 * test['difference']:+.1f} points "
                f"({100 * test['low']:+.1f} to {100 * test['high']:+.1f}), p = {test['p_value']:.3f}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def draw_recall(figures: dict[str, Any], file: Path) -> None:
    """Draw R@1 with its intervals, a group of bars for each set; nothing without matplotlib."""
    if matplotlib is None:
        return
    figure = matplotlib.figure.Figure(figsize=(2 + 2.5 * len(figures), 4), layout="constrained")
    axes = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for axis, (name, found) in zip(axes, figures.items(), strict=True):
        for place, row in enumerate(found["systems"].values()):
            value, (low, high) = row["recall_at_1"], row["recall_at_1_interval"]
            axis.bar(place, 100 * value)
            axis.errorbar(
                place, 100 * value, [[100 * (value - low)], [100 * (high - value)]], color="black", capsize=3
            )
        axis.set_xticks(
            range(len(found["systems"])), list(found["systems"]), rotation=60, ha="right", fontsize="small"
        )
        axis.set_title(name, fontsize="medium")
    axes[0].set_ylabel("R@1 (%)")
    figure.savefig(file, dpi=120)


def _shown(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if key == "times_real_time":
        return f"{value:.1f}"
    text = f"{100 * value:.1f}"
    if key in ("recall_at_1", "wer"):
        low, high = row[f"{key}_interval"]
        text += f" ({100 * low:.1f}–{100 * high:.1f})"
    return text
