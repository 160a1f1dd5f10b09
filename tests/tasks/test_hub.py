"""The Hub's cache, mirrors laid out like it, and all that can be wrong with them. No network."""

import hashlib
import os

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from conf.schema import Data, Source
from tasks.download import download

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def mirror(tmp_path):
    """A mirror with one dataset, as the Hub's cache has it: snapshots are links to blobs."""
    root = tmp_path / "mirror" / "datasets--nobody--toy"
    snapshot, blobs = root / "snapshots" / COMMIT / "data", root / "blobs"
    for folder in (snapshot, blobs, root / "refs"):
        folder.mkdir(parents=True)
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part")
    content = (tmp_path / "part").read_bytes()
    blob = blobs / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (snapshot / "train-0.parquet").symlink_to(os.path.relpath(blob, snapshot))
    (root / "refs" / "main").write_text(COMMIT)
    return tmp_path / "mirror"


def source(mirror="", **settings):
    return Source(name="toy", kind="hub", path="nobody/toy", mirror=str(mirror), **settings)


@pytest.mark.parametrize("files", [[], ["data/train-0.parquet"]])
@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_mirror_is_read_without_a_network(mirror, tmp_path, files, revision):
    got = download(source(mirror, files=files, revision=revision), Data(), tmp_path / "out")
    assert got.table()["answers"].to_pylist() == [["1"], ["2"], ["3"], ["4"]]
    assert got.manifest["revision"] == COMMIT
    assert list(got.manifest["files"]) == ["train-0.parquet"]


def test_where_a_mirror_lies_does_not_name_the_set(mirror, tmp_path):
    first = download(source(mirror), Data(), tmp_path / "out")
    moved = mirror.rename(tmp_path / "elsewhere")
    assert download(source(moved), Data(), tmp_path / "out") == first


def test_the_cache_serves_without_a_network(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(mirror))
    assert download(source(), Data(), tmp_path / "out").rows == 4


def test_files_placed_by_hand_need_no_blobs(mirror, tmp_path):
    link = mirror / "datasets--nobody--toy" / "snapshots" / COMMIT / "data" / "train-0.parquet"
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content)
    assert download(source(mirror), Data(), tmp_path / "out").rows == 4


def refused(given, tmp_path):
    with pytest.raises(ValueError) as refusal:
        download(given, Data(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fact, _, hint = str(refusal.value).partition("\n\nhint: ")
    assert fact.startswith("toy: ") and hint
    return fact, hint


def test_a_mirror_without_the_revision_says_where_to_place_it(mirror, tmp_path):
    fact, hint = refused(source(mirror, revision="v2"), tmp_path)
    assert "could not read 'nobody/toy' at revision 'v2': the mirror does not hold it" in fact
    assert "put its files into" in hint and "datasets--nobody--toy/snapshots/<commit>/" in hint
    assert hint.endswith("refs/v2; or set kind=file and path")


def test_a_mirror_without_the_file_names_it(mirror, tmp_path):
    fact, _ = refused(source(mirror, files=["data/test-0.parquet"]), tmp_path)
    assert "has no file data/test-0.parquet" in fact


def test_a_split_that_is_not_there_is_refused(mirror, tmp_path):
    link = mirror / "datasets--nobody--toy" / "snapshots" / COMMIT / "data" / "train-0.parquet"
    (link.parent / "train-1.parquet").write_bytes(link.read_bytes())
    fact, _ = refused(source(mirror, split="dev"), tmp_path)
    assert (
        "could not read split 'dev' of nobody/toy: found no file of it among data/train-0" in fact
    )


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_half_downloaded_file_is_refused(mirror, tmp_path, keep):
    (blob,) = (mirror / "datasets--nobody--toy" / "blobs").iterdir()
    whole = blob.read_bytes()
    blob.write_bytes(whole[: int(len(whole) * keep)])
    fact, hint = refused(source(mirror), tmp_path)
    assert "is not whole: its digest is" in fact and "fetch it again" in hint


def test_a_file_with_a_flipped_bit_is_refused(mirror, tmp_path):
    (blob,) = (mirror / "datasets--nobody--toy" / "blobs").iterdir()
    whole = bytearray(blob.read_bytes())
    whole[len(whole) // 2] ^= 1
    blob.write_bytes(whole)
    assert "is not whole" in refused(source(mirror), tmp_path)[0]


def test_a_small_file_is_checked_by_its_git_digest(mirror, tmp_path):
    snapshot = mirror / "datasets--nobody--toy" / "snapshots" / COMMIT / "data"
    text = b'{"problem": "1+1?", "answer": "2"}\n'
    name = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
    blob = mirror / "datasets--nobody--toy" / "blobs" / name
    blob.write_bytes(text)
    (snapshot / "a.jsonl").symlink_to(os.path.relpath(blob, snapshot))
    assert download(source(mirror, files=["data/a.jsonl"]), Data(), tmp_path / "o").rows == 1
    blob.write_bytes(text[:-1])
    assert "is not whole" in refused(source(mirror, files=["data/a.jsonl"]), tmp_path)[0]


def answer(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid/"))


RAISED = [
    (lambda: errors.RepositoryNotFoundError("404", response=answer(404)), "no such dataset"),
    (lambda: errors.RevisionNotFoundError("404", response=answer(404)), "has no such revision"),
    (lambda: errors.GatedRepoError("403", response=answer(403)), "asks for consent first"),
    (lambda: errors.LocalEntryNotFoundError("none"), "there is no way to the Hub, and no copy"),
    (lambda: errors.OfflineModeIsEnabled("off"), "there is no way to the Hub, and no copy"),
    (lambda: httpx.ConnectError("Name or service not known"), "there is no way to the Hub"),
    (lambda: httpx.ReadTimeout("timed out"), "there is no way to the Hub"),
    (lambda: errors.HfHubHTTPError("502 Bad Gateway", response=answer(502)), "502 Bad Gateway"),
    (lambda: OSError(28, "No space left on device"), "No space left on device"),
]


@pytest.mark.parametrize(("error", "says"), RAISED)
def test_whatever_the_hub_raises_is_told_in_words(tmp_path, monkeypatch, error, says):
    def fails(*_, **__):
        raise error()

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    fact, _ = refused(source(revision="v9"), tmp_path)
    assert fact.startswith("toy: could not read 'nobody/toy' at revision 'v9': ") and says in fact


def test_a_name_that_is_no_name_is_refused(tmp_path):
    given = Source(name="toy", kind="hub", path="no/such/name", mirror=str(tmp_path))
    assert "that is no dataset's name" in refused(given, tmp_path)[0]
