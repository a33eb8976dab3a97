"""The README's table of figures, from the stamped results and nothing else.

python benchmarks/tables.py            # print it
python benchmarks/tables.py --write    # put it into README.md
"""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: benchmarks/tables.py --write -->", "<!-- end of figures -->"
SYSTEMS = {
    "clsr": "CLSR, float32",
    "cascade": "faster-whisper base int8, one by one, + MiniLM",
    "cascade-batched": "faster-whisper base int8, its own batching, + MiniLM",
}


def figures_table() -> str:
    """Return the Markdown table."""
    recognition, nonspeech, indexing = (read(name) for name in ("recognition", "nonspeech", "indexing"))
    heard = recognition["figures"]
    same = heard.pop("equal_token_for_token")
    lines = ["| what | figure (95 % interval) | command |", "|---|---|---|"]
    lines += [
        line(
            f"word errors, {same['of']} re-read clips: {name}",
            f"{percent(row, 'wer')}, {row['times_real_time']:.1f} × real time",
            "recognition.py",
        )
        for name, row in heard.items()
    ]
    lines.append(
        line(
            "padded clips whose tokens equal stock Whisper's",
            f"{same['clips']} of {same['of']}",
            "recognition.py",
        )
    )
    lines += [
        line(
            f"words heard in {nonspeech['stamp']['minutes']:g} min of {name}, model alone / as indexed",
            f"{row['words_model_alone']} / {row['words_as_indexed']}",
            "nonspeech.py",
        )
        for name, row in nonspeech["figures"].items()
        if "words_as_indexed" in row
    ]
    for row in indexing["figures"]["systems"]:
        figure = f"{row['times_real_time']:.1f} × real time, {row['peak_memory_gb']:.2f} GB"
        figure += f", R@1 {share(row, 'recall_at_1')}"
        if "recall_at_1_with_moment" in row:
            figure += f", as `clsr search` ranks {share(row, 'recall_at_1_with_moment')}"
        lines.append(line(f"indexing: {SYSTEMS[row['system']]}", figure, "indexing.py"))
    parameters = sum(recognition["stamp"]["parameters"].values()) / 1e6
    machine = f"{indexing['stamp']['processor']}, {indexing['stamp']['threads']} threads"
    lines += [
        "",
        f"Default checkpoint: {parameters:.1f} million parameters. Indexing: {indexing['stamp']['data']}, in one run,",
        f"on {machine}. The stamps in `benchmarks/results` name commit, versions and data.",
    ]
    return "\n".join(lines)


def line(what: str, figure: str, script: str) -> str:
    return f"| {what} | {figure} | `benchmarks/{script}` |"


def percent(row: dict, name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{100 * row[name]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def share(row: dict, name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"


def read(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    if parser.parse_args().write:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        before, rest = readme.split(BEGIN)
        after = rest.split(END)[1]
        (ROOT / "README.md").write_text(f"{before}{BEGIN}\n{figures_table()}\n{END}{after}", encoding="utf-8")
    else:
        print(figures_table())


if __name__ == "__main__":
    main()
