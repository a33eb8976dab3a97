import os
from dataclasses import replace
from pathlib import Path

import lancedb
import pytest

from modeling_clsr.data.passages import CutSettings, FixedWindows
from modeling_clsr.retrieval.schema import (
    FIRST_FORMAT_FILE,
    TABLE,
    IndexMetadata,
    IndexMismatchError,
    create_table,
    open_table,
    quoted,
    row_id,
    row_schema,
    source_fingerprint,
)

METADATA = IndexMetadata("small", "3f2a" * 8, 384, 16000, CutSettings(max_s=20.0))


@pytest.mark.parametrize("cut", [CutSettings(max_s=20.0), FixedWindows(20.0, 5.0)])
def test_metadata_read_is_metadata_written_and_stands_in_the_table(tmp_path: Path, cut):
    metadata = replace(METADATA, cut=cut)
    create_table(str(tmp_path / "index"), metadata)
    assert open_table(str(tmp_path / "index"))[1] == metadata
    assert [file.name for file in (tmp_path / "index").iterdir()] == [f"{TABLE}.lance"]


def test_other_model_is_refused_with_both_names():
    METADATA.check_model("elsewhere/small", "3f2a" * 8)
    with pytest.raises(IndexMismatchError, match=r"built by small@3f2a3f2a but the model is base@91c091c0; "):
        METADATA.check_model("base", "91c0" * 8)


def test_other_settings_are_refused_with_both():
    METADATA.check_cut(None)
    METADATA.check_cut(CutSettings(max_s=20.0))
    with pytest.raises(
        IndexMismatchError,
        match=r"cut by pauses \(max_s 20, .*\) but fixed \(max_s 20, overlap_s 5\) is asked for; leave",
    ):
        METADATA.check_cut(FixedWindows(20.0, 5.0))


def test_other_format_is_refused_with_both_versions(tmp_path: Path):
    create_table(str(tmp_path / "index"), replace(METADATA, format_version=99))
    with pytest.raises(IndexMismatchError, match=r"index format 99 but this version reads 3; build it again"):
        open_table(str(tmp_path / "index"))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / FIRST_FORMAT_FILE).write_text("{}")
    with pytest.raises(IndexMismatchError, match=r"first has index format 1 but this version reads 3"):
        open_table(str(tmp_path / "first"))


@pytest.mark.parametrize(("name", "state"), [("", "holds no index"), ("typo", "does not exist")])
def test_missing_index_says_how_to_make_one(tmp_path: Path, name: str, state: str):
    with pytest.raises(
        FileNotFoundError, match=rf"{state}; check the spelling, or make one with `clsr index"
    ):
        open_table(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_table_of_something_else_is_no_index(tmp_path: Path):
    lancedb.connect(str(tmp_path)).create_table(TABLE, [{"a": 1}])
    with pytest.raises(FileNotFoundError, match="holds a table of something else"):
        open_table(str(tmp_path))


def test_fingerprint_changes_with_content_size_and_time(tmp_path: Path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"0" * 200000)
    os.utime(path, ns=(1, 1))
    first = source_fingerprint(path)
    assert source_fingerprint(path) == first
    seen = {first}
    for content, time in ((b"0" * 199999 + b"1", 1), (b"0" * 200001, 1), (b"0" * 200000, 2)):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        seen.add(source_fingerprint(path))
    assert len(seen) == 4


def test_row_id_tells_recordings_and_passages_apart():
    ids = {row_id(source, start) for source in ("/a.wav", "/b.wav") for start in (0.0, 0.128, 36000.0)}
    assert len(ids) == 6
    assert row_id("/a.wav", 0.128) == row_id("/a.wav", 0.1280001)


def test_vector_of_the_schema_has_the_models_width():
    assert row_schema(384).field("vector").type.list_size == 384


def test_quotes_in_names_are_doubled():
    assert quoted("it's") == "'it''s'"
