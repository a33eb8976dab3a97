r"""How much speech the text encoder learns from: clips, hours and voices, what was heard in noise and what is held out.

    python recipes/mini_en/hours.py WORK --json benchmarks/results/clsr-mini-en/speech.json

WORK is that of a `cpu.sh` with ANEW=1, which speaks all of it; the others speak what is held out alone.
"""

import argparse
from collections import Counter
from pathlib import Path

from held_out import held_out, read_spoken

from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.manifest import Row
from modeling_clsr.hub.stamp import make_stamp, write_stamped


def speech_of(rows: list[Row], in_noise: set[str], kept_back: set[str]) -> dict[str, object]:
    """Count the clips of rows, each once, though several questions may be about it.

    Args:
        rows: with durations and speakers.
        in_noise: ids that were heard in noise.
        kept_back: clips that are not learnt.
    """
    hours = {row.audio: (row.duration or 0.0) / 3600 for row in rows}
    voices = {row.audio: str(row.speaker) for row in rows}
    noisy = {row.audio for row in rows if row.id in in_noise}
    return {
        "clips": len(hours),
        "hours": sum(hours.values()),
        "hours_in_noise": sum(hours[clip] for clip in noisy),
        "hours_held_out": sum(hours[clip] for clip in hours.keys() & kept_back),
        "clips_of_voices": dict(sorted(Counter(voices.values()).items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--json", required=True, type=Path)
    args = parser.parse_args()
    stamp = make_stamp()
    spoken = read_spoken(args.work)
    kept_back = {row.audio for row in held_out(*spoken.values())}
    figures = {}
    for name, rows in spoken.items():
        heard = (args.work / "heard").glob(f"{name}-noisy*.jsonl")
        in_noise = {row["id"] for file in heard for row in read_json_lines(file)}
        figures[name] = speech_of(rows, in_noise, kept_back)
    write_stamped(args.json, figures, stamp)
    print(
        "\n".join(
            f"{name}: {found['clips']} clips, {found['hours']:.1f} h" for name, found in figures.items()
        )
    )


if __name__ == "__main__":
    main()
