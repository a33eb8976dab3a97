"""Figures under noise as a table and as pictures: recall against noise, and against word errors (the paper's Figure 6).

Enters: what `robustness` found. Leaves: Markdown and PNG.
"""

from pathlib import Path
from typing import Any

from .significance import shown_difference

try:
    import matplotlib.figure
except ImportError:  # the "train" extra
    matplotlib = None  # type: ignore[assignment]


def robustness_table(figures: dict[str, Any]) -> str:
    """Return R@1 and WER of each system under each condition, and the paired tests, as Markdown."""
    names = list(next(iter(figures.values()))["systems"])
    lines = [
        f"| condition | {' | '.join(f'R@1, {name} | WER, {name}' for name in names)} |",
        "|---|" + "---|---|" * len(names),
    ]
    for condition, found in figures.items():
        cells = []
        for name in names:
            row = found["systems"][name]
            low, high = row["recall_at_1_interval"]
            cells.append(f"{100 * row['recall_at_1']:.1f} ({100 * low:.1f}–{100 * high:.1f})")
            cells.append(f"{100 * row['wer']:.1f}" if "wer" in row else "")
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    lines.append("")
    for condition, found in figures.items():
        for pair, tests in found["paired"].items():
            test = tests["recall_at_1"]
            lines.append(f"- {condition}, {pair}, R@1: {shown_difference(test)}")
    return "\n".join(lines) + "\n"


def draw_robustness(figures: dict[str, Any], file: Path) -> None:
    """Draw R@1 against the condition, and against WER; nothing without matplotlib."""
    if matplotlib is None:
        return
    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    by_condition, by_errors = figure.subplots(1, 2, sharey=True)
    for name in next(iter(figures.values()))["systems"]:
        rows = [found["systems"][name] for found in figures.values()]
        recall = [100 * row["recall_at_1"] for row in rows]
        spread = [
            [value - 100 * row["recall_at_1_interval"][0] for value, row in zip(recall, rows, strict=True)],
            [100 * row["recall_at_1_interval"][1] - value for value, row in zip(recall, rows, strict=True)],
        ]
        by_condition.errorbar(range(len(rows)), recall, spread, marker="o", capsize=3, label=name)
        if all("wer" in row for row in rows):
            pairs = sorted((100 * row["wer"], value) for row, value in zip(rows, recall, strict=True))
            by_errors.plot(*zip(*pairs, strict=True), marker="o", label=name)
    by_condition.set_xticks(range(len(figures)), list(figures), rotation=30, ha="right")
    by_condition.set_ylabel("R@1 (%), with 95 % intervals")
    by_condition.legend()
    by_errors.set_xlabel("WER (%)")
    by_errors.legend()
    figure.savefig(file, dpi=120)
