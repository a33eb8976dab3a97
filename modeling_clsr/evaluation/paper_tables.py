"""Tables laid out like the paper's, our figures beside the published ones (arXiv 2511.09282).

Enters: what `evaluator` found. Leaves: Markdown. Published figures belong to other data; they are marked as published
and show the order of magnitude, not a comparison.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PUBLISHED_FILE = Path(__file__).with_name("published.json")
RECALLS = tuple(f"{way} R@{k}" for way in ("Q-C", "C-Q") for k in (1, 5, 10))
DUAL_SYSTEMS = ("dual", "speechdpr", "clap", "st", "clsr")


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        title: of ours.
        number: of the paper's.
        metrics: columns, by the names of `PUBLISHED_FILE`.
        includes: tells by its name whether a system of ours belongs here.
    """

    title: str
    number: str
    metrics: tuple[str, ...]
    includes: Callable[[str], bool]


TABLES = (
    PaperTable("Main results", "Table 2", ("WER", *RECALLS), lambda name: True),
    PaperTable("Ablations", "Table 3", ("WER", *RECALLS), lambda name: name.startswith("clsr")),
    PaperTable("Dual encoders", "Table 4", ("WER", *RECALLS), lambda name: name in DUAL_SYSTEMS),
    PaperTable(
        "Time of retrieval",
        "Table 6",
        ("WER", "Q-C R@1", "C-Q R@1", "cost time (s)", "speed-up (x)"),
        lambda name: name.startswith(("cascade", "clsr")),
    ),
)


def read_published(table: str) -> dict[tuple[str, str], dict[str, float]]:
    """Return the published figures of a table, {(data set, system): {metric: value}}, in its order."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for entry in json.loads(PUBLISHED_FILE.read_text(encoding="utf-8")):
        if entry["table"] == table:
            row = rows.setdefault((entry["dataset"], entry["system"]), {})
            row[entry["metric"]] = entry["value"]
    return rows


def paper_tables(figures: Mapping[str, Any]) -> str:
    """Return every table.

    Args:
        figures: {set: what `evaluate_systems` returned}.
    """
    blocks = []
    for table in TABLES:
        ours = {
            (name, system): our_figures(row, found["systems"].get("cascade"))
            for name, found in figures.items()
            for system, row in found["systems"].items()
            if table.includes(system)
        }
        published = {
            (data, f"{system} (published)"): row
            for (data, system), row in read_published(table.number).items()
        }
        rows = [
            f"| {data} | {system} | {' | '.join(_shown(row.get(metric), metric) for metric in table.metrics)} |"
            for (data, system), row in (ours | published).items()
        ]
        head = f"| data set | system | {' | '.join(table.metrics)} |"
        rule = "|---" * (2 + len(table.metrics)) + "|"
        blocks.append(
            "\n".join([f"## {table.title} (layout of the paper's {table.number})", "", head, rule, *rows])
        )
    note = (
        "Ours: the first question of each passage against the passages asked about, one to one, both ways, equals "
        "counted by their expected rank. Rows marked (published) are the paper's own, on its data: not comparable."
    )
    return "\n\n".join([note, *blocks]) + "\n"


def our_figures(row: Mapping[str, Any], cascade: Mapping[str, Any] | None) -> dict[str, float]:
    """Return a system's figures by the names of the published ones, in percent and seconds."""
    found = {
        f"{way} R@{k}": 100 * row["square"][direction][f"recall_at_{k}"]
        for way, direction in (("Q-C", "q2c"), ("C-Q", "c2q"))
        for k in (1, 5, 10)
    }
    if "wer" in row:
        found["WER"] = 100 * row["wer"]
    if row.get("seconds"):
        found["cost time (s)"] = row["seconds"]
        if cascade:
            found["speed-up (x)"] = cascade["seconds"] / row["seconds"]
    return found


def _shown(value: float | None, metric: str) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if metric == "cost time (s)" else f"{value:.2f}"
