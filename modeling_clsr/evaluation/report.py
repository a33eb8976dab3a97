"""Figures to a report: JSON with its stamp, Markdown tables, a picture.

Enters: what `evaluator` found. Leaves: `results.json`, `table.md`, `paper.md` and `recall.png` in one folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hub.stamp import write_stamped
from .paper_tables import paper_tables, read_published
from .robustness_report import robustness_table
from .significance import shown_difference

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


def report_of(figures: dict[str, Any]) -> str:
    """Return the Markdown of figures, whatever protocol of `eval_clsr.py` they are of."""
    first = next(iter(figures.values()))
    if "systems" not in first:  # conditions
        return "\n".join(
            f"## {name}: noise and rooms\n\n{robustness_table(found)}" for name, found in figures.items()
        )
    if "recordings" in first:
        return moments_table(figures)
    return long_form_table(figures) if "pieces" in first else markdown(figures)


def render_results(*reports: Mapping[str, Any]) -> str:
    """Render the results of a model card from the JSON of `eval_clsr.py`, and from nothing else.

    Args:
        *reports: contents of `results.json`, of any protocol.
    """
    blocks = []
    for report in reports:
        stamp = report["stamp"]
        table = report_of(report["figures"]).replace("## ", "### ").strip()
        blocks.append(f"{table}\n\nCommand: `{stamp['command']}`, commit `{stamp['commit']}`.")
    return "\n\n".join(blocks)


def write_report(folder: str | Path, figures: dict[str, Any], stamp: dict[str, Any], **inputs: Any) -> Path:
    """Write the files.

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
    (folder / "paper.md").write_text(paper_tables(figures), encoding="utf-8")
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
        lines += [
            "",
            f"{found['questions']} questions, {found['passages']} passages, {found['hours']:.2f} h.",
            "",
        ]
        for pair, tests in found["paired"].items():
            test = tests["recall_at_1"]
            lines.append(f"- {pair}, R@1: {shown_difference(test)}")
        lines += _split_lines(found["systems"])
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _split_lines(systems: dict[str, Any]) -> list[str]:
    """Return a small table of the splits; nothing where the set has none."""
    splits = list(dict.fromkeys(split for row in systems.values() for split in row.get("splits", {})))
    if not splits:
        return []
    lines = ["", f"| system | {' | '.join(f'R@1, {split} | WER, {split}' for split in splits)} |"]
    lines.append("|---|" + "---|---|" * len(splits))
    for system, row in systems.items():
        cells = [_shown(row["splits"][split], key) for split in splits for key in ("recall_at_1", "wer")]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return lines


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


def moments_table(figures: dict[str, Any]) -> str:
    """Return the Markdown table of what `evaluate_moments` found on each set."""
    blocks = []
    for name, found in figures.items():
        lines = [
            f"## {name}: moments",
            "",
            "| system | hit@1 | hit@5 | hit@10 | start off by, median / 90 % | length, median | × real time | search |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for system, row in found["systems"].items():
            low, high = row["hit_at_1_interval"]
            speed = f"{row['times_real_time']:.1f}" if "times_real_time" in row else ""
            lines.append(
                f"| {system} | {100 * row['hit_at_1']:.1f} ({100 * low:.1f}–{100 * high:.1f}) "
                f"| {100 * row['hit_at_5']:.1f} | {100 * row['hit_at_10']:.1f} "
                f"| {_seconds(row['start_error_median_s'])} / {_seconds(row['start_error_p90_s'])} "
                f"| {_seconds(row['length_median_s'])} | {speed} | {row['search_ms']:.0f} ms |"
            )
        lines += [
            "",
            f"{found['questions']} questions, {found['recordings']} recordings, {found['hours']:.2f} h.",
            "",
        ]
        for pair, tests in found["paired"].items():
            test = tests["hit_at_1"]
            lines.append(f"- {pair}, hit@1: {shown_difference(test)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def long_form_table(figures: dict[str, Any]) -> str:
    """Return the Markdown table of what `evaluate_long_form` found, the paper's Table 5 beside it."""
    blocks = []
    for name, found in figures.items():
        lines = [
            f"## {name}: answers of {found['model']}",
            "",
            "| hears | EM | F1 | answer is in it | seconds | speed-up |",
            "|---|---|---|---|---|---|",
        ]
        for system, row in found["systems"].items():
            cells = []
            for measure in ("em", "f1", "found"):
                low, high = row[f"{measure}_interval"]
                cells.append(f"{100 * row[measure]:.1f} ({100 * low:.1f}–{100 * high:.1f})")
            lines.append(f"| {system} | {' | '.join(cells)} | {row['seconds']:.1f} | {row['speed_up']:.2f} |")
        for (_, system), row in read_published("Table 5").items():
            lines.append(
                f"| {system} (published) | {row['EM']:.2f} | {row['macro-F1']:.2f} | "
                f"| {row['cost time (s)']:.0f} | {row['speed-up (x)']:.2f} |"
            )
        lines += ["", f"{found['questions']} questions, {found['pieces']} pieces.", ""]
        for pair, tests in found["paired"].items():
            test = tests["f1"]
            lines.append(f"- {pair}, F1: {shown_difference(test)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"
