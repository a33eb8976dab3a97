"""The README's table of figures, from the stamped results and nothing else.

python benchmarks/tables.py            # print it
python benchmarks/tables.py --write    # put it into README.md
"""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: benchmarks/tables.py --write -->", "<!-- end of figures -->"


def figures_table() -> str:
    """Return the Markdown table."""
    recognition, nonspeech, indexing = (read(name) for name in ("recognition", "nonspeech", "indexing"))
    lines = ["| what | figure (95 % interval) | command |", "|---|---|---|"]
    heard = recognition["figures"]
    for name, row in heard.items():
        if "wer" in row:
            low, high = row["wer_interval"]
            figure = f"{100 * row['wer']:.1f} % ({100 * low:.1f} to {100 * high:.1f}), {row['times_real_time']:.1f} × real time"
            lines.append(
                f"| word errors, {heard['equal_token_for_token']['of']} re-read clips: {name} | {figure} | `benchmarks/recognition.py` |"
            )
    same = heard["equal_token_for_token"]
    lines.append(
        f"| padded clips whose tokens equal stock Whisper's | {same['clips']} of {same['of']} | `benchmarks/recognition.py` |"
    )
    minutes = nonspeech["stamp"]["minutes"]
    for name, row in nonspeech["figures"].items():
        if "words_as_indexed" in row:
            figure = f"{row['words_model_alone']} / {row['words_as_indexed']}"
            what = f"words heard in {minutes:g} min of {name}, model alone / as indexed"
            lines.append(f"| {what} | {figure} | `benchmarks/nonspeech.py` |")
    for row in indexing["figures"]["systems"]:
        figure = f"{row['times_real_time']:.1f} × real time, {row['peak_memory_gb']:.2f} GB, R@1 {share(row, 'recall_at_1')}"
        if "recall_at_1_with_moment" in row:
            figure += f", as `clsr search` ranks {share(row, 'recall_at_1_with_moment')}"
        lines.append(f"| indexing: {NAMES[row['system']]} | {figure} | `benchmarks/indexing.py` |")
    parameters = sum(recognition["stamp"]["parameters"].values()) / 1e6
    machine = f"{indexing['stamp']['processor']}, {indexing['stamp']['threads']} threads"
    lines += [
        "",
        f"Default checkpoint: {parameters:.1f} million parameters. Indexing: {indexing['stamp']['data']}, all systems in one "
        f"run, on {machine}. The stamps in `benchmarks/results` name commit, versions and data.",
    ]
    return "\n".join(lines)


NAMES = {
    "clsr": "CLSR, float32",
    "cascade": "faster-whisper base int8, one by one, + MiniLM",
    "cascade-batched": "faster-whisper base int8, its own batching, + MiniLM",
}


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
