"""Files of a dataset on the Hugging Face Hub, as local files: from the network, a cache, a mirror.

Downloads resume where they were cut. With HF_HUB_OFFLINE=1, or with a mirror, nothing is asked of
the network. A mirror is a folder laid out like the Hub's cache:

    <mirror>/datasets--Owner--name/snapshots/<commit or revision>/<files>
    <mirror>/datasets--Owner--name/refs/<revision>      holds the commit; not needed for a commit
"""

import hashlib
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from conf.schema import Source
from tasks.readers import READERS


def fetched(source: Source) -> tuple[list[Path], str]:
    """The files of a source of kind `hub`, in its order, and the commit that they are of.

    Args:
        source: A dataset's name, or a folder laid out like a dataset's repository.

    Raises:
        ValueError: the dataset, its revision, split or a file does not exist; the network is away
            and there is no copy on this machine; or a file is not whole.
    """
    local = Path(str(source.path))
    if local.is_dir():
        return _files(source, local), "local"
    folder = _snapshot(source)
    files = _files(source, folder)
    for file in files:
        _check_whole(source, file)
    return files, folder.name


def _snapshot(source: Source) -> Path:
    from huggingface_hub import constants, snapshot_download

    patterns = source.files or [f"*{suffix}" for suffix in READERS]
    with _explained(source):
        return Path(
            snapshot_download(
                source.path,
                repo_type="dataset",
                revision=source.revision,
                allow_patterns=[*patterns, "README.md"],
                cache_dir=source.mirror or None,
                local_files_only=bool(source.mirror) or constants.HF_HUB_OFFLINE,
                etag_timeout=20,
            )
        )


@contextmanager
def _explained(source: Source):
    """Everything the Hub's library raises, in a sentence."""
    import httpx
    from huggingface_hub import errors

    where = f"{source.name}: could not read {source.path!r} at revision {source.revision!r}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{where}: its owner asks for consent first\n\nhint: accept the terms on its page, "
            "then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{where}: the Hub has no such dataset, or it is private\n\n"
            f"hint: check the name; a private one needs `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{where}: the dataset has no such revision\n\nhint: set revision to a commit, a "
            "branch or a tag of it"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(
            f"{where}: that is no dataset's name\n\nhint: a name is owner/name"
        ) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        httpx.TransportError,
        ConnectionError,
        TimeoutError,
    ) as error:
        why = "the mirror does not hold it" if source.mirror else "there is no way to the Hub"
        raise ValueError(
            f"{where}: {why}, and no copy is at {_place(source)}\n\nhint: {_by_hand(source)}"
        ) from error
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ValueError(
            f"{where}: {str(error).splitlines()[0] if str(error) else type(error).__name__}\n\n"
            "hint: run it again, a download goes on where it was cut; " + _by_hand(source)
        ) from error


def _place(source: Source) -> Path:
    from huggingface_hub import constants

    root = Path(source.mirror or constants.HF_HUB_CACHE)
    return root / f"datasets--{str(source.path).replace('/', '--')}"


def _by_hand(source: Source) -> str:
    files = ", ".join(source.files) or "its files"
    return (
        f"to place it by hand, put {files} into {_place(source)}/snapshots/<commit>/ and write "
        f"the commit into {_place(source)}/refs/{source.revision}; or set kind=file and path"
    )


def _files(source: Source, folder: Path) -> list[Path]:
    """The named files of a repository's folder, or those of its split."""
    found = [folder / name for name in source.files] or _of_split(source, folder)
    for file in found:
        if not file.is_file():
            raise ValueError(
                f"{source.name}: {source.path} at revision {source.revision!r} has no file "
                f"{file.relative_to(folder)}\n\nhint: set files to some it has, or place it in "
                f"{folder}"
            )
        if file.suffix not in READERS:
            raise ValueError(
                f"{source.name}: {file.name} ends in {file.suffix or 'nothing'!r}, needed one of "
                f"{', '.join(READERS)}\n\nhint: set files to those with the problems"
            )
    return found


def _of_split(source: Source, folder: Path) -> list[Path]:
    """Files that the dataset's card gives to the split, or whose names or folders say it."""
    all_files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in READERS)
    names = {path.relative_to(folder).as_posix(): path for path in all_files}
    patterns = _card(folder, source.split)
    if patterns is None:
        patterns = [f"*{source.split}*"] if len(names) > 1 else ["*"]
    found = [names[name] for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if not found:
        raise ValueError(
            f"{source.name}: could not read split {source.split!r} of {source.path}: found no file "
            f"of it among {', '.join(names) or 'none'}\n\nhint: check name and split, or set files"
        )
    return found


def _card(folder: Path, split: str) -> list[str] | None:
    """Patterns of a split's files as the card's first configuration gives them; None without."""
    from huggingface_hub import DatasetCard

    if not (folder / "README.md").is_file():
        return None
    configs = DatasetCard.load(folder / "README.md").data.to_dict().get("configs") or []
    for config in configs[:1]:
        given = config.get("data_files")
        if isinstance(given, list) and all(isinstance(one, dict) for one in given):
            paths = [one["path"] for one in given if one.get("split") == split]
            return [p for path in paths for p in ([path] if isinstance(path, str) else path)]
        if isinstance(given, str):
            return [given]
    return None


def _check_whole(source: Source, file: Path) -> None:
    """Compare a file of the Hub's cache with the digest that its cache entry is named by.

    A copy that somebody placed by hand has no such entry: of it the reader finds what is damaged.
    """
    blob = file.resolve()
    if blob.parent.name != "blobs" or len(blob.name) not in (40, 64):
        return
    content = blob.read_bytes()
    if len(blob.name) == 64:
        found = hashlib.sha256(content).hexdigest()
    else:  # git's own digest, of files that are not kept by size
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != blob.name:
        raise ValueError(
            f"{source.name}: {file} is not whole: its digest is {found[:12]}, needed "
            f"{blob.name[:12]}\n\nhint: delete {blob} and fetch it again"
        )
