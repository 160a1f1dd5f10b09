import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.schema import Source
from tasks.artifacts import (
    COLUMNS,
    Dataset,
    digest_of,
    file_digest,
    folder_digest,
    new_folder,
    read_json,
    read_sound,
    rows_digest,
    write_json,
)
from tasks.model import Checkpoint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def rows(count: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": f"q-{i}",
                "prompt": [{"role": "user", "content": f"{i}? go"}],
                "question": f"{i}?",
                "answers": [str(i)],
                "source": "toy",
                "index": i,
                "level": None,
            }
            for i in range(count)
        ],
        schema=COLUMNS,
    )


def test_the_digest_is_the_sha_256_of_canonical_json():
    expected = hashlib.sha256(b'{"a":[1,"x"],"b":null}').hexdigest()
    assert digest_of({"b": None, "a": [1, "x"]}) == expected


def test_a_model_has_the_digest_of_its_fields():
    assert digest_of(Source()) == digest_of(Source().model_dump())
    assert digest_of(Source()) != digest_of(Source(seed=1))


def test_what_json_cannot_hold_has_no_digest():
    with pytest.raises(TypeError, match="found a set"):
        digest_of({1, 2})
    with pytest.raises(ValueError):
        digest_of(float("nan"))


@given(JSON)
def test_json_survives_writing_and_reading(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "deep" / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_a_failed_write_leaves_the_old_json(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", [1, object()])
    assert read_json(tmp_path / "a.json") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_broken_json_is_refused_with_its_path(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json holds no JSON"):
        read_json(tmp_path / "a.json")


def test_the_digest_of_a_folder_sees_names_and_bytes(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_bytes(b"x")
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a").write_bytes(b"y")
    (tmp_path / "three" / "sub" / "a").rename(tmp_path / "three" / "sub" / "b")
    digests = {folder_digest(tmp_path / name) for name in ("one", "two", "three")}
    assert len(digests) == 3
    with pytest.raises(NotADirectoryError):
        folder_digest(tmp_path / "none")


def test_what_tools_keep_hidden_in_a_folder_is_no_part_of_its_digest(tmp_path):
    model = tmp_path / ".hub" / "model"  # the folder itself may be hidden
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"x")
    before = folder_digest(model)
    for name in (".cache/huggingface/download/model.lock", ".git/HEAD", ".DS_Store"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("other each time")
    assert folder_digest(model) == before == Checkpoint.of(model).digest


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    for text in ("old", "new"):
        with new_folder(tmp_path / "a" / "final") as aside:
            (aside / "file").write_text(text)
            if text == "new":
                assert (tmp_path / "a" / "final" / "file").read_text() == "old"
    assert (tmp_path / "a" / "final" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["final"]


def race(make, rounds=100):
    """Let two threads make the same at the same time, again and again."""
    for number in range(rounds):
        start = Barrier(2, timeout=60)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(make, start, number, me) for me in range(2)]:
                done.result()


def test_of_two_that_make_a_report_at_a_time_one_stays_whole(tmp_path):
    def make(start, number, me):
        with new_folder(tmp_path / "report") as aside:
            for name in "ab":
                (aside / name).write_text(f"{number} of {me}")
            start.wait()

    race(make)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert len({path.read_text() for path in (tmp_path / "report").iterdir()}) == 1


def test_a_data_set_that_another_made_meanwhile_stays(tmp_path):
    def make(start, number, me):
        start.wait()
        made = Dataset.write(tmp_path / f"toy-{number}", "toy", rows(3), maker=me)
        before = made.path.stat().st_ino
        for _ in range(20):
            assert made.table().num_rows == 3 and made.path.stat().st_ino == before

    race(make)
    assert not list(tmp_path.glob(".*"))


def test_a_folder_without_what_makes_it_whole_is_replaced(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "left").touch()
    assert Dataset.write(tmp_path / "toy", "toy", rows(2)).rows == 2
    assert not (tmp_path / "toy" / "left").exists()
    again = Dataset.write(tmp_path / "toy", "toy", rows(3))
    assert again.rows == 2  # its name says what is in it: it stays


def test_a_folder_that_failed_leaves_nothing_and_spares_the_old_one(tmp_path):
    with new_folder(tmp_path / "final") as aside:
        (aside / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "final") as aside:
        (aside / "file").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "final" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_data_set_comes_back_as_written(tmp_path):
    written = Dataset.write(tmp_path / "toy", "toy", rows(3), revision="r1")
    loaded = Dataset.load(tmp_path / "toy")
    assert loaded == written
    assert (loaded.name, loaded.rows, loaded.digest) == ("toy", 3, rows_digest(rows(3)))
    assert loaded.manifest["revision"] == "r1"
    assert loaded.manifest["file_digest"] == file_digest(loaded.path)
    assert loaded.table().equals(rows(3))


def test_the_digest_of_rows_depends_on_their_order_but_not_on_chunks():
    table = rows(4)
    assert rows_digest(table) == rows_digest(pa.concat_tables([table[:1], table[1:]]))
    assert rows_digest(table) != rows_digest(table.take([1, 0, 2, 3]))


def test_a_changed_or_unfinished_data_set_is_refused(tmp_path):
    dataset = Dataset.write(tmp_path / "toy", "toy", rows(3))
    dataset.path.write_bytes(dataset.path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"not the file that manifest\.json beside it describes"):
        Dataset.load(tmp_path / "toy")
    (tmp_path / "toy" / "manifest.json").write_text(json.dumps({"kind": "stage"}))
    with pytest.raises(ValueError, match="of kind 'stage', needed 'dataset'"):
        Dataset.load(tmp_path / "toy")
    (tmp_path / "toy" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        Dataset.load(tmp_path / "toy")


def sound(content) -> str:
    return "" if content == {"whole": True} else "is not whole"


def test_a_damaged_file_is_moved_aside_and_told(tmp_path):
    path = tmp_path / "stage.json"
    path.write_text('{"whole": tr')
    content, complaint = read_sound(path, sound)
    [aside] = tmp_path.glob("stage.json.corrupt-*")
    assert content is None and complaint.endswith(f"kept as {aside.name}")
    assert aside.read_text() == '{"whole": tr' and not path.exists()


def test_a_sound_file_that_was_written_just_now_is_not_moved_aside_for_the_one_before(tmp_path):
    """A reader holds no lock: the run that does may write while it reads."""
    path = tmp_path / "stage.json"
    write_json(path, {"whole": False})

    def written_meanwhile(content) -> str:
        if fault := sound(content):
            write_json(path, {"whole": True})
        return fault

    assert read_sound(path, written_meanwhile) == ({"whole": True}, "")
    assert [found.name for found in tmp_path.iterdir()] == ["stage.json"]


def test_a_sound_file_that_was_moved_all_the_same_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "stage.json"
    write_json(path, {"whole": False})
    move = os.replace
    moved = []

    def written_before(source, target):
        if not moved and ".corrupt-" in str(target):
            moved.append(target)
            write_json(path, {"whole": True})
        move(source, target)

    monkeypatch.setattr(os, "replace", written_before)
    assert read_sound(path, sound) == ({"whole": True}, "")
    assert moved and [found.name for found in tmp_path.iterdir()] == ["stage.json"]
