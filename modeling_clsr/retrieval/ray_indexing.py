"""Indexing on many machines: recordings spread over a pool of Ray actors, one model in each, one table at the end.

Enters: an index and recordings. Leaves: the same rows that one process writes. Workers read and encode; only this
process writes, so that a worker that dies costs the recordings it was at, which Ray gives to another.
"""

import logging
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..data.audio import find_recordings
from ..data.passages import Cutting
from .encoder import Encoder
from .index import SpeechIndex
from .indexing import AddReport, Recording, changed_recordings, encode_recordings
from .progress import AudioBar

try:
    import ray
    import ray.data
except ImportError as error:
    raise ImportError(
        '`clsr index --ray` needs ray, which is not installed; install the "ray" extra of this package'
    ) from error


class IndexWorker:
    """One actor: its model, and recordings one after the other.

    Args:
        model: folder or Hub id, where every machine finds it.
        fingerprint: of the index's model; another one is refused.
        cut: how recordings are cut.
        batch_size: most passages in a batch.
    """

    def __init__(self, model: str, fingerprint: str, cut: Cutting, batch_size: int):
        self.encoder = Encoder.from_pretrained(model)
        if self.encoder.fingerprint != fingerprint:
            raise ValueError(
                f"the index was built by {model}@{fingerprint[:8]} but on this machine {model} is "
                f"@{self.encoder.fingerprint[:8]}; copy the same checkpoint to every machine"
            )
        self.cut, self.batch_size = cut, batch_size

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Encode recordings; returns each with its rows and the report on it, pickled."""
        results = []
        for packed in batch["recording"]:
            recording: Recording = pickle.loads(packed)
            report = AddReport()
            finished = [
                done
                for _, recordings in encode_recordings(
                    [recording], self.encoder, self.cut, self.batch_size, report
                )
                for done in recordings
            ]
            results.append(pickle.dumps((finished, report.failed, recording.duration_s)))
        return {"result": results}


def add_with_ray(
    index: SpeechIndex,
    paths: Iterable[str | Path],
    batch_size: int = 16,
    workers: int | None = None,
    address: str | None = None,
    progress: bool = False,
) -> AddReport:
    """Index recordings on a Ray cluster. Paths must be readable, and the model be found, on every machine.

    Args:
        index: to add to.
        paths: recordings and folders of them.
        batch_size: most passages in a batch of a worker.
        workers: actors; one for each GPU, or else for each two cores, if None.
        address: of the cluster ("auto" for the one this machine belongs to); a local one is started if None.
        progress: show a bar on stderr.

    Returns:
        What was done, as `SpeechIndex.add`.

    Raises:
        As `SpeechIndex.add`; ConnectionError: no cluster answers at the address.
    """
    report = AddReport()
    recordings = changed_recordings(find_recordings(paths), index.sources(), report)
    if not recordings:
        return report
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cores = int(ray.cluster_resources().get("CPU", 1))
    pool = min(workers or gpus or max(cores // 2, 1), len(recordings))
    with AudioBar(total=sum(r.duration_s for r in recordings), disable=not progress) as bar:
        index.commit_all(
            _encoded(index, recordings, batch_size, pool, bool(gpus), report), report, bar.update
        )
    return report


def _encoded(
    index: SpeechIndex,
    recordings: list[Recording],
    batch_size: int,
    pool: int,
    use_gpu: bool,
    report: AddReport,
) -> Iterator[tuple[float, list[Recording]]]:
    """Yield what the workers finish, with the seconds of audio, in the order in which they do."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    metadata = index.metadata
    items = [{"recording": pickle.dumps(recording)} for recording in recordings]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        IndexWorker,
        fn_constructor_args=(metadata.model, metadata.model_fingerprint, metadata.cut, batch_size),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=pool),
        num_gpus=1 if use_gpu else 0,
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in dataset.iter_rows():
        finished, failed, seconds = pickle.loads(row["result"])
        report.failed += failed
        yield seconds, finished
