"""A memory bank: the texts of all training rows as candidates, so that a small batch does not limit the negatives.

Enters: vectors of every row's question and transcript. While the text encoder is frozen they never grow stale, so the
bank costs one pass over the texts; only clips must be heard again at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.collator import group_of
from ..data.manifest import Row

FIRST_OWN_GROUP = 1 << 32  # above every hash of a passage's id


@dataclass(frozen=True)
class MemoryBank:
    """Vectors of N rows, in the order of the data set.

    Attributes:
        queries: (N, D) unit vectors of the questions.
        documents: (N, D) unit vectors of the transcripts.
        groups: (N,) ids of the passages; a row without one is a passage of its own.

    Source: memory banks, Wu et al. 2018, arXiv 1805.01978; here exact, as what fills it is frozen.
    """

    queries: Tensor
    documents: Tensor
    groups: Tensor

    def to(self, device: torch.device) -> "MemoryBank":
        """Return the bank on a device."""
        return MemoryBank(*(part.to(device) for part in (self.queries, self.documents, self.groups)))


def make_bank(rows: Sequence[Row], pairs: Sequence[Tensor]) -> MemoryBank:
    """Return the bank of rows.

    Args:
        rows: N rows of a data set, in its order.
        pairs: (2, D) vectors of each row's question and transcript.
    """
    groups = [group_of(row) for row in rows]
    own = [FIRST_OWN_GROUP + index if group < 0 else group for index, group in enumerate(groups)]
    both = torch.stack(list(pairs))
    return MemoryBank(both[:, 0], both[:, 1], torch.tensor(own))
