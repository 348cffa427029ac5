"""One Edge collection as one file and back: a gzipped tar of its folder, as it lies on disk after a flush.

Edge's files are sparse, some 30 MB of holes each: copies keep the holes, and the tar is compressed, at the fastest
level.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from indexer.durability import sync, sync_tree
from model.errors import DependencyUnavailable, InvalidInput, NotFound

LEVEL = 1
CHUNK_BYTES = 2**16
# Files renamed while a folder is synced, after which it is given up.
_RENAMES = 10


def copy(folder: Path, to: Path, leave: Sequence[str] = ()) -> None:
    """Copy a folder, replacing `to`. Nobody may write to it meanwhile, except to the names in `leave`, which are not
    copied.
    """
    shutil.rmtree(to, ignore_errors=True)
    try:
        shutil.copytree(folder, to, copy_function=_copy_file, ignore=shutil.ignore_patterns(*leave))
    except (OSError, shutil.Error) as error:
        shutil.rmtree(to, ignore_errors=True)
        raise DependencyUnavailable(f"cannot copy the collection to {to}: {error}") from error


def pack(folder: Path, file: Path) -> None:
    """Write the folder to `file`, which appears whole and durable, replacing one that exists.

    Then remove the folder.
    """
    new = file.with_name(f".new-{file.name}")
    try:
        with tarfile.open(new, "w:gz", compresslevel=LEVEL) as tar:
            tar.add(folder, arcname=".")
        sync(new)
        new.rename(file)
        sync(file.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise DependencyUnavailable(f"cannot write the snapshot {file}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(file: Path, folder: Path) -> None:
    """Unpack into `folder`, which must be empty. Nothing is written outside it, whatever the file says."""
    try:
        with tarfile.open(file, "r:gz") as tar:
            for member in tar:
                _extract(tar, tarfile.data_filter(member, str(folder)), folder)
    except FileNotFoundError as error:
        raise NotFound(f"there is no snapshot {file}", field="snapshot", value=str(file)) from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{file} is not a snapshot: {error}", field="snapshot", value=str(file)) from error
    except OSError as error:  # gzip.BadGzipFile too
        kind = InvalidInput if error.errno is None else DependencyUnavailable
        raise kind(f"cannot read the snapshot {file}: {error}", field="snapshot", value=str(file)) from error
    sync_tree(folder)


def sync_folder(folder: Path) -> None:
    """Fsync a folder and the files in it, and retry while Edge renames one of them, such as the next part of its
    log."""
    for _ in range(_RENAMES):
        with contextlib.suppress(FileNotFoundError):
            for path in (*folder.iterdir(), folder):
                sync(path)
            return
    raise DependencyUnavailable(f"cannot fsync {folder}: its files keep changing")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract files and folders. Edge has no links."""
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    elif (content := tar.extractfile(member)) is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("wb") as out:
            _write_sparse(content, out)


def _copy_file(source: str, target: str) -> None:
    with Path(source).open("rb") as content, Path(target).open("wb") as out:
        _write_sparse(content, out)


def _write_sparse(content: IO[bytes], out: IO[bytes]) -> None:
    """Write the content with its zeros as holes."""
    zeros = bytes(CHUNK_BYTES)
    while chunk := content.read(CHUNK_BYTES):
        if chunk == zeros:
            out.seek(CHUNK_BYTES, os.SEEK_CUR)
        else:
            out.write(chunk)
    out.truncate()
