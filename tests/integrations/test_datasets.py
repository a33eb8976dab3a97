"""The real `datasets` streams a real LanceDB folder: the rows of the index, each once, however many workers read."""

import shutil
from datetime import UTC, date, datetime

import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="the extra train is not installed")

from torch.utils.data import DataLoader  # noqa: E402

from modeling_clsr.data.passages import CutSettings  # noqa: E402
from modeling_clsr.integrations.datasets import COLUMNS, stream_index  # noqa: E402
from modeling_clsr.retrieval.schema import IndexMetadata, create_table, open_table, pa, row_id  # noqa: E402

DIM = 8
RECORDINGS, PASSAGES = 30, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of 30 recordings with 5 passages each, and of one in which nobody speaks."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(RECORDINGS + 1):
        spoken = number < RECORDINGS
        source = f"/talks/{'talk' if spoken else 'silence'}-{number:02d}.opus"
        for place in range(PASSAGES if spoken else 1):
            start = 20.0 * place
            rows.append(
                {
                    "id": row_id(source, start),
                    "source": source,
                    "path": source,
                    "recorded": datetime(2026, 1, 1 + number % 2, tzinfo=UTC),
                    "start_s": start,
                    "end_s": start + 20.0,
                    "transcript": f"passage {place} of talk {number}" if spoken else "",
                    "words": [{"text": "passage", "start": start, "end": start + 0.5, "probability": 0.5}],
                    "vector": random.standard_normal(DIM) if spoken else None,
                }
            )
    folder = tmp_path_factory.mktemp("streamed") / "index"
    table = create_table(str(folder), IndexMetadata("made", "0" * 32, DIM, 16000, CutSettings()))
    for first in range(0, len(rows), 40):  # several files
        table.add(pa.Table.from_pylist(rows[first : first + 40], schema=table.schema))
    return folder


@pytest.fixture(scope="module")
def names(folder):
    """The ids of all passages of speech."""
    found = [row["id"] for row in stream_index(folder)]
    assert len(found) == len(set(found)) == RECORDINGS * PASSAGES
    return set(found)


def test_rows_are_those_of_the_index(index):
    streamed = {row["id"]: row for row in stream_index(index)}
    expected = {row["id"]: row for source in index.sources() for row in index.passages(source)}
    assert streamed.keys() == expected.keys() and len(streamed) == len(index)
    for name, row in streamed.items():
        assert set(row) == set(COLUMNS)
        assert {key: row[key] for key in COLUMNS if key != "vector"} == {
            key: expected[name][key] for key in COLUMNS if key != "vector"
        }
        assert np.linalg.norm(row["vector"]) == pytest.approx(1.0, abs=1e-5)


def test_columns_are_typed(folder):
    features = stream_index(folder).features
    assert features["vector"] == datasets.List(datasets.Value("float32"), length=DIM)
    assert features["words"].feature["start"] == datasets.Value("float64")
    only = stream_index(folder, columns=["path", "vector"])
    assert list(only.features) == ["path", "vector"]
    assert next(iter(only.with_format("torch")))["vector"].shape == (DIM,)


def test_filters_are_those_of_search(folder):
    found = {row["path"] for row in stream_index(folder, file="talk-0*", exclude="*-03.opus")}
    assert found == {f"/talks/talk-0{number}.opus" for number in range(10) if number != 3}
    days = {row["recorded"].day for row in stream_index(folder, after=date(2026, 1, 2))}
    assert days == {2}


def test_shuffling_gives_every_row_once_in_another_order(folder, names):
    shuffled = stream_index(folder).shuffle(seed=0, buffer_size=64)
    first = [row["id"] for row in shuffled]
    shuffled.set_epoch(1)
    second = [row["id"] for row in shuffled]
    assert set(first) == set(second) == names and len(first) == len(second) == len(names)
    assert first != second and first != sorted(first)


def test_a_stream_goes_on_where_its_state_was_taken(folder):
    stream = stream_index(folder, batch_size=7)
    whole = [row["id"] for row in stream]
    rows = iter(stream)
    head = [next(rows)["id"] for _ in range(61)]
    state = stream.state_dict()
    again = stream_index(folder, batch_size=7)
    again.load_state_dict(state)
    assert head + [row["id"] for row in again] == whole


def test_rows_that_come_later_are_not_in_the_stream(folder, names, tmp_path):
    shutil.copytree(folder, tmp_path / "index")
    stream = stream_index(tmp_path / "index", columns=["id"])
    open_table(str(tmp_path / "index"))[0].delete("source LIKE '%talk-1%'")
    assert {row["id"] for row in stream} == names
    assert len(list(stream_index(tmp_path / "index", columns=["id"]))) == (RECORDINGS - 10) * PASSAGES


@pytest.mark.slow  # each worker imports torch
def test_two_workers_share_the_rows(folder, names):
    stream = stream_index(folder, columns=["id", "source", "vector"]).with_format("torch")
    loader = DataLoader(
        stream, batch_size=10, num_workers=2, multiprocessing_context="spawn", collate_fn=list
    )
    batches = list(loader)
    rows = [row for batch in batches for row in batch]
    assert sorted(row["id"] for row in rows) == sorted(names)
    assert rows[0]["vector"].shape == (DIM,)


def test_forked_worker_says_what_to_do(folder):
    loader = DataLoader(stream_index(folder), num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(RuntimeError, match='pass multiprocessing_context="spawn" to the DataLoader'):
        next(iter(loader))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["text"]}, "columns has 'text' but the index has id, source"),
        ({"num_shards": 0}, "num_shards is 0 and batch_size 1000 but"),
        ({"file": "nothing*"}, "has 151 rows but none with vector IS NOT NULL AND source LIKE"),
    ],
)
def test_wrong_arguments_are_named(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        stream_index(folder, **arguments)


def test_index_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; check the spelling"):
        stream_index(tmp_path / "nowhere")
