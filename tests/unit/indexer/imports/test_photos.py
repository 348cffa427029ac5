"""A folder of pictures, whatever else lies in it."""

import base64
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.imports import local_reader, photos
from indexer.imports.photos import HIDDEN, LINK, NO_PICTURE, RAW, SPECIAL, Photo, read_photos
from model.errors import InvalidInput, TooLarge

Make = Callable[..., bytes]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def by_name(folder: Path) -> dict[str, Photo]:
    return {photo.name: photo for photo in read_photos(folder)}


def test_pictures_are_known_by_their_bytes(tmp_path: Path, make_image: Make) -> None:
    picture = make_image("red", size=(30, 20))
    write(tmp_path, {"b/2.JPG": picture, "b/a/1.png": picture, "no-suffix": picture, "c.txt": b"a text"})
    found = by_name(tmp_path)
    assert list(found) == ["b/2.JPG", "b/a/1.png", "c.txt", "no-suffix"]
    assert found["b/a/1.png"].document == {
        "id": "b/a/1.png",
        "image": picture,
        "metadata": {"folder": "b/a", "width": 30, "height": 20},
    }
    assert isinstance(found["no-suffix"].document, dict)
    assert found["no-suffix"].document["metadata"]["folder"] == "."
    assert found["c.txt"] == Photo("c.txt", left_out=NO_PICTURE)


def test_what_is_left_out_has_its_reason(tmp_path: Path, make_image: Make) -> None:
    picture = make_image("red")
    write(tmp_path, {"a.png": picture, ".b.png": picture, ".c/d.png": picture, "e.NEF": b"II*\0" + bytes(100)})
    (tmp_path / "f.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "g").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "h.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "i.png"))
        reasons = {photo.name: photo.left_out for photo in read_photos(tmp_path)}
    assert reasons == {
        ".b.png": HIDDEN, ".c": HIDDEN, "a.png": None, "e.NEF": RAW, "f.png": LINK, "g": LINK, "h.png": SPECIAL,
        "i.png": SPECIAL,
    }  # fmt: skip


def test_a_link_that_takes_the_place_of_a_picture_is_not_followed(
    tmp_path: Path, make_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a.png": make_image("red")})
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    monkeypatch.setattr(photos, "walk", lambda folder: [Photo("link.png")])
    (photo,) = read_photos(tmp_path)
    assert isinstance(photo.document, InvalidInput)


def test_what_is_broken_fails_alone(tmp_path: Path, make_image: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = make_image("red")
    monkeypatch.setattr(photos, "MAX_IMAGE_BYTES", len(picture) + 10)
    write(
        tmp_path,
        {
            "a.png": picture,
            "cut.png": picture[:40],
            "empty.jpg": b"",
            "large.png": picture + bytes(20),
            "t.jpg": b"txt",
        },
    )
    (tmp_path / os.fsdecode(b"x\xff.png")).write_bytes(picture)
    found = by_name(tmp_path)
    assert found["cut.png"].document == {"id": "cut.png", "image": picture[:40], "metadata": {"folder": "."}}
    details = {name: photo.document.detail for name, photo in found.items() if isinstance(photo.document, InvalidInput)}
    assert details == {
        "empty.jpg": "empty.jpg is not the picture that its name says",
        "large.png": f"large.png has {len(picture) + 20} bytes, limit is {len(picture) + 10}",
        "t.jpg": "t.jpg is not the picture that its name says",
        "x\\xff.png": "x\\xff.png: the name is not UTF-8; rename it",
    }
    assert isinstance(found["large.png"].document, TooLarge)


def test_what_may_not_be_read_fails_alone(tmp_path: Path, make_image: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error put in its place: the tests may run as root, who may read everything."""
    write(tmp_path, {"a.png": make_image("red"), "b/c.png": make_image("red"), "d.png": make_image("red")})
    scandir, open_file = os.scandir, os.open

    def denied(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def guarded(path: Any, *arguments: Any) -> Any:
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return call(path, *arguments)

        return guarded

    monkeypatch.setattr(photos.os, "scandir", denied(scandir, "b"))
    monkeypatch.setattr(photos.os, "open", denied(open_file, "d.png"))
    found = by_name(tmp_path)
    assert isinstance(found["a.png"].document, dict)
    details = [photo.document.detail for photo in found.values() if isinstance(photo.document, InvalidInput)]
    assert details == ["the folder b cannot be listed: Permission denied", "d.png cannot be read: Permission denied"]


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"{number}.txt": b"" for number in range(4)} | {"z/5.txt": b""})
    monkeypatch.setattr(photos, "MAX_FILES", 5)
    assert len(list(read_photos(tmp_path))) == 5
    monkeypatch.setattr(photos, "MAX_FILES", 4)
    with pytest.raises(InvalidInput, match="has more than 4 files: load the folders in it one by one"):
        list(read_photos(tmp_path))


def test_the_depth_is_bounded(tmp_path: Path, make_image: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MAX_DEPTH", 2)
    write(tmp_path, {"a/b/c.png": make_image("red"), "a/d.png": make_image("red")})
    deep, picture = read_photos(tmp_path)
    assert isinstance(deep.document, InvalidInput)
    assert deep.document.detail == "a/b lies more than 2 folders deep: load it by itself"
    assert picture.name == "a/d.png"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be listed: No such file or directory"):
        list(read_photos(tmp_path / "none"))


def test_the_reader_of_files_reads_it_too(tmp_path: Path, make_image: Make) -> None:
    picture = make_image("red")
    folder = write(tmp_path / "Pictures", {"a.png": picture, "b.txt": b"", "c.jpg": b"", "d/e.png": picture})
    left_out: list[tuple[str, str]] = []
    items = list(local_reader.read(folder, on_left_out=lambda *reason: left_out.append(reason)))
    assert [where for where, _ in items] == ["Pictures file 1", "c.jpg", "Pictures file 2"]
    assert items[0][1]["image"] == {"base64": base64.b64encode(picture).decode()}  # type: ignore[index]
    assert left_out == [(NO_PICTURE, "b.txt")]
    with pytest.raises(InvalidInput, match="mapping cannot be set: photographs have no fields to name"):
        list(local_reader.read(folder, mapping={"text": "caption"}))


def test_a_table_names_the_pictures_where_there_is_one(tmp_path: Path, make_image: Make) -> None:
    write(tmp_path, {"a.png": make_image("red"), "b.png": make_image("blue"), "list.csv": b"file_name\na.png\n"})
    assert not local_reader.is_photos(tmp_path, None)
    assert len(list(local_reader.read(tmp_path))) == 1
    assert local_reader.is_photos(tmp_path, "photos")
    assert len(list(local_reader.read(tmp_path, "photos"))) == 2
    write(tmp_path, {"other.csv": b"x\n"})
    with pytest.raises(InvalidInput, match="it has 2; --format photos loads its pictures without one"):
        list(local_reader.read(tmp_path))
