"""Clips of like length into batches, so that little is computed on padding."""

from collections.abc import Sequence


def length_batches(
    lengths: Sequence[float], batch_size: int = 16, max_padding: float = 0.2
) -> list[list[int]]:
    """Group clips of like length.

    Args:
        lengths: of the clips, in any unit.
        batch_size: most clips in a batch.
        max_padding: largest share of a batch that may be padding.

    Returns:
        Indices into `lengths`, each once; longest batch first, so that a lack of memory shows at once.

    Raises:
        ValueError: `batch_size` is below 1, or `max_padding` is not in [0, 1).

    >>> length_batches([3.0, 29.0, 28.0, 3.1], batch_size=2)
    [[1, 2], [3, 0]]
    """
    if batch_size < 1 or not 0 <= max_padding < 1:
        raise ValueError(
            f"batch_size is {batch_size} and max_padding {max_padding:g} but at least 1 and a share below 1 "
            "are needed; change them"
        )
    batches: list[list[int]] = []
    total = 0.0  # of the open batch
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * (lengths[batch[0]] if batch else 0)
        if not batch or len(batch) == batch_size or padded - total - lengths[index] > max_padding * padded:
            batches.append([index])
            total = lengths[index]
        else:
            batch.append(index)
            total += lengths[index]
    return batches
