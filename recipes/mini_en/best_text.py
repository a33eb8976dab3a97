"""Order text encoders by what they find on held-out articles: the mean R@1 over the pools, at the best mixture.

python recipes/mini_en/best_text.py out/text-*/dev.json
"""

import json
import sys
from pathlib import Path


def best_share(found: dict) -> tuple[float, str]:
    """Return the best mean R@1 of a dev.json and the share of the tuned weights that gives it."""
    return max((sum(pools.values()) / max(len(pools), 1), share) for share, pools in found["after"].items())


if __name__ == "__main__":
    files = {
        Path(name).parent.name: json.loads(Path(name).read_text("utf-8"))["figures"] for name in sys.argv[1:]
    }
    for name, found in sorted(files.items(), key=lambda entry: best_share(entry[1]), reverse=True):
        print(name, flush=True)
        print(name, *best_share(found), file=sys.stderr)
