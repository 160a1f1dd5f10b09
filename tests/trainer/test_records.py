"""Records of steps survive being cut and being resumed."""

import json
import os

import pytest

from trainer.records import Growing, append_record, keep_steps, read_records


def test_what_is_appended_is_read_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    append_record(path, {"step": 1, "reward": 0.5})
    append_record(path, {"step": 2, "reward": 1.0})
    assert [record["step"] for record in read_records(path)] == [1, 2]


def test_a_line_that_was_cut_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "rew')
    assert read_records(path) == [{"step": 1}]


@pytest.mark.parametrize("line", [b"\x81\xff", b"\0\0", b"[1]", b'{"reward": 1}', b'{"step": "1"}'])
def test_a_line_that_was_damaged_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"step": 1})
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is no record.*\n\nhint: "):
        read_records(path)


def test_a_resume_forgets_the_steps_that_it_makes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        append_record(path, {"step": step})
    keep_steps(path, 2)
    assert read_records(path) == [{"step": 1}, {"step": 2}]


def test_what_stays_is_on_the_disk_before_it_takes_the_place_of_the_rest(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"step": 1})
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    keep_steps(path, 1)
    assert synced == [str(path.with_suffix(".part")), str(tmp_path)]


def test_a_first_start_makes_an_empty_file(tmp_path):
    keep_steps(tmp_path / "metrics.jsonl", 0)
    assert read_records(tmp_path / "metrics.jsonl") == []


def steps(records: list[dict]) -> list[int]:
    return [record["step"] for record in records]


def test_a_file_that_grows_is_read_on_and_from_its_start_when_it_is_another(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    growing = Growing(path)
    assert growing.more() == []  # not there yet
    for step in (1, 2, 3):
        append_record(path, {"step": step})
    assert steps(growing.more()) == [1, 2, 3] and growing.more() == []
    append_record(path, {"step": 4})
    monkeypatch.setattr(json, "loads", lambda line, loads=json.loads: read.append(1) or loads(line))
    read = []
    assert steps(growing.more()) == [4] and len(read) == 1
    keep_steps(path, 2)  # another file
    append_record(path, {"step": 3})
    assert steps(growing.more()) == [1, 2, 3]
    path.write_text('{"step": 1}\n')  # the same, and shorter
    assert steps(growing.more()) == [1]


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    growing = Growing(path)
    with path.open("a") as file:
        for text, seen in (
            ('{"step": 1}\n{"st', [1]),
            ('ep": 2', []),
            ("}\n", [2]),
            ("[]\n", None),
        ):
            file.write(text)
            file.flush()
            if seen is None:
                with pytest.raises(ValueError, match="line 3 of"):
                    growing.more()
            else:
                assert steps(growing.more()) == seen
