import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.schema import Data, Source
from tasks import readers
from tasks.download import download
from tasks.readers import parts


def refused(path, tmp_path):
    source = Source(name="toy", kind="file", path=str(path))
    with pytest.raises(ValueError) as refusal:
        download(source, Data(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fact, _, hint = str(refusal.value).partition("\n\nhint: ")
    assert hint and fact.startswith(f"toy: {path}")
    return fact


def test_a_parquet_whose_footer_promises_too_much_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    rows = pa.table({"problem": ["0" * 90_000] * 50, "answer": ["1"] * 50})
    pq.write_table(rows, path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(readers, "LARGEST_GROUP", 1 << 20)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)  # it would raise, were it called
    assert "has a row group of 4,5" in refused(path, tmp_path)


def test_a_parquet_that_grows_by_its_dictionary_is_stopped(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    rows = pa.table({"problem": ["0" * 90_000] * 200, "answer": ["1"] * 200})
    pq.write_table(rows, path, use_dictionary=True)
    # Of a dictionary the footer counts each text once, however often it stands there.
    assert pq.read_metadata(path).row_group(0).total_byte_size < 200_000
    monkeypatch.setattr(readers, "LARGEST_GROUP", 1 << 20)
    monkeypatch.setattr(readers, "LARGEST_PART", 1 << 20)
    assert "unpacks to 18,0" in refused(path, tmp_path)


def test_a_json_file_too_large_for_the_memory_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "big.json"
    path.write_text(json.dumps([{"problem": "1+1?", "answer": "2"}] * 50))
    monkeypatch.setattr(readers, "LARGEST_TEXT", 100)
    assert "bytes, needed at most 100" in refused(path, tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl"])
def test_text_that_is_no_utf_8_is_refused(tmp_path, suffix):
    path = tmp_path / f"bad.{suffix}"
    if suffix == "parquet":
        raw = pa.array([b"1+1?", b"\xff\xfe?"], pa.binary())
        text = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
        pq.write_table(pa.table({"problem": text, "answer": ["2", "2"]}), path)
    else:
        path.write_bytes(b'[{"problem": "\xff", "answer": "2"}]')
    line = "line 1: " if suffix == "jsonl" else ""
    told = refused(path, tmp_path)
    assert f"is no readable {suffix} file: {line}'utf-8' codec can't decode" in told


def test_a_prompt_of_a_megabyte_is_refused_with_its_row(tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "x" * 2**20, "answer": "2"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "row 1, column problem: found a text of 1,048,576 characters" in refused(path, tmp_path)


def test_a_row_is_named_by_its_place_in_the_file_however_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_TOGETHER", 4)
    rows = [{"problem": f"{n}?", "answer": "2"} for n in range(11)] + [{"problem": "q"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "row 11 has the columns problem" in refused(path, tmp_path)


def test_how_many_rows_are_read_together_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"problem": [f"{n}?" for n in range(100)], "answer": ["2"] * 100}), path
    )
    source = Source(name="toy", kind="file", path=str(path))
    digests = set()
    for together in (3, 64, 1024):
        monkeypatch.setattr(readers, "_TOGETHER", together)
        made = download(source, Data(), tmp_path / str(together))
        digests.add((made.digest, made.path.read_bytes()))
    assert len(digests) == 1


def test_columns_that_nobody_asks_for_are_not_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"problem": ["q"], "answer": ["1"], "messages": ["m" * 99]}), path)
    ((place, rows),) = parts(path, "toy", {"problem", "answer"})
    assert (place, rows) == (f"toy: {path}", [{"problem": "q", "answer": "1"}])


@pytest.mark.parametrize(
    ("value", "told"), [("[" * 100_000, "a thousand deep"), ("1" * 5000, "limit (4300 digits)")]
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_that_python_does_not_read_is_refused(tmp_path, value, told, suffix):
    path = tmp_path / f"set.{suffix}"
    row = f'{{"problem": "1+1?", "answer": {value}}}'
    path.write_text(row if suffix == "jsonl" else f"[{row}]")
    assert told in refused(path, tmp_path)


def test_an_answer_that_is_half_a_character_is_none(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"problem": "1+1?", "answer": ["\\ud800", "2"]}')
    source = Source(name="toy", kind="file", path=str(path))
    rows = download(source, Data(), tmp_path / "out").table()
    assert rows["answers"].to_pylist() == [["2"]]


def test_a_level_of_thousands_of_digits_is_refused(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"problem": "1+1?", "answer": "2", "level": "1" * 5000}))
    assert "column level: found str '1111" in refused(path, tmp_path)
