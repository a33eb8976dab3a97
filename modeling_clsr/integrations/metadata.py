"""What a document of another library tells of a hit beside its text."""

from dataclasses import asdict
from typing import Any

from ..retrieval import Hit


def hit_metadata(hit: Hit) -> dict[str, Any]:
    """Return what a document tells beside its text: where it was said, its score and its moment; plain values."""
    return {
        "source": hit.source,
        "start_s": hit.start_s,
        "end_s": hit.end_s,
        "recorded": hit.recorded.isoformat(),
        "score": hit.score,
        "probability": hit.probability,
        "moment": None if hit.moment is None else asdict(hit.moment),
    }
