"""A folder of photographs, from `ret2 load` and as an import, to hits with a thumbnail."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from s3_server import KEY, SECRET, S3Server
from threaded_server import serving
from typer.testing import CliRunner

from service.cli.main import app
from service.client.client import Client
from service.settings import Settings
from service.wiring import build

Make = Callable[..., bytes]


def photograph(colour: str, taken: str | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    exif[0x0110] = "D70"
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "JPEG", exif=exif.tobytes())
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path, make_image: Make) -> Path:
    folder = tmp_path / "Pictures"
    files = {
        "2006/red.jpg": photograph("red", "2006:07:08 09:10:11"),
        "green.png": make_image("green"),
        "phone.heic": (Path(__file__).parents[2] / "support" / "turned.heic").read_bytes(),
        "notes.txt": b"not a picture",
        "film.mov": b"\0\0\0\x14ftypqt  ",
        ".hidden/blue.png": make_image("blue"),
        "cut.jpg": photograph("blue")[:300],
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "link.png").symlink_to(folder / "green.png")
    return folder


@pytest.fixture
def site(runtime: Any, tmp_path: Path, pictures: Path) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path / "data", import_roots=str(pictures))
    with serving(lambda: build(settings, runtime)) as url:
        yield url


@pytest.fixture
def run(site: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "400")
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments), "-c", "photos", "--url", site])


def test_a_folder_is_loaded_twice(site: str, run: Callable[..., Any], pictures: Path, runtime: Any) -> None:
    first = run("load", pictures)
    assert first.exit_code == 1, "a broken picture fails, and alone"
    assert "3 indexed, 0 skipped, 1 failed" in first.stdout
    assert "Pictures file 2 cut.jpg" in first.stdout
    assert "left out 2 times: not a picture (film.mov, notes.txt)" in first.stdout
    assert "left out once: hidden (the name begins with a dot) (.hidden)" in first.stdout
    assert "left out once: a link, which is not followed (link.png)" in first.stdout
    with Client(site) as client:
        document = client.document("photos", "2006/red.jpg")
        assert document.text is None
        taken = {"taken": "2006-07-08T09:10:11", "camera": "D70"}
        assert document.metadata == {"folder": "2006", "width": 40, "height": 60, **taken}
        assert client.document("photos", "phone.heic").metadata["camera"] == "Apple iPhone 15"
        small = Image.open(io.BytesIO(client.image("photos", "phone.heic", width=256)))
        assert (small.format, small.size) == ("JPEG", (48, 64))
        assert client.collection("photos").indexes == {
            "folder": "keyword", "taken": "datetime", "camera": "keyword", "width": "number", "height": "number"
        }  # fmt: skip
        since = {"field": "taken", "gte": "2006-07-08T09:00:00Z", "lt": "2006-07-09T00:00:00Z"}
        assert [hit.id for hit in client.search("photos", "red", filter=since).hits] == ["2006/red.jpg"]

    (pictures / "new.png").write_bytes((pictures / "green.png").read_bytes())
    again = run("load", pictures)
    assert "1 indexed, 3 skipped, 1 failed" in again.stdout


def test_a_collection_that_is_there_keeps_its_fields(site: str, run: Callable[..., Any], pictures: Path) -> None:
    with Client(site) as client:
        client.create_collection("photos", indexes={"folder": "text"})
        assert "3 indexed" in run("load", pictures).stdout
        assert client.collection("photos").indexes == {"folder": "text"}


def test_two_folders_at_once_are_refused(run: Callable[..., Any], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "More").mkdir()
    refused = run("load", pictures, tmp_path / "More")
    assert refused.exit_code == 1
    assert "load them one at a time" in refused.stderr


def test_a_picture_that_the_service_refuses_fails_alone(
    run: Callable[..., Any], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service without the decoder of HEIC names the format."""
    monkeypatch.setattr("model.images.formats._is_installed", lambda module: module != "pi_heif")
    result = run("load", pictures)
    assert result.exit_code == 1
    assert "2 indexed, 0 skipped, 2 failed" in result.stdout
    assert "Pictures file 4 phone.heic" in result.stdout
    assert "it is HEIC, which this installation cannot read for lack of pi-heif" in " ".join(result.stdout.split())


def test_an_import_of_the_same_folder(site: str, run: Callable[..., Any], pictures: Path) -> None:
    """By their names alone, and as the same documents that `ret2 load` makes."""
    result = run("import", pictures, "--format", "photos", "--wait")
    assert "3 indexed, 0 skipped, 1 failed" in result.stdout
    assert "left out 2 times: not a picture" in result.stdout
    assert "left out once: hidden (the name begins with a dot)" in result.stdout
    assert "left out once: a link, which is not followed" in result.stdout
    assert "0 indexed, 3 skipped" in run("load", pictures).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--map", "text=caption"], "mapping cannot be set: photographs have no fields to name"),
        (["--image-root", "."], "image_root cannot be set: photographs are named by no file"),
    ],
)
def test_an_import_takes_nothing_that_names_fields(
    run: Callable[..., Any], pictures: Path, options: list[str], message: str
) -> None:
    refused = run("import", pictures, "--format", "photos", *options)
    assert refused.exit_code == 1
    assert message in refused.stderr


def test_what_is_no_folder_is_refused(run: Callable[..., Any], pictures: Path) -> None:
    for uri, message in (
        (pictures / "green.png", "is not a folder, which format photos needs"),
        (pictures / "none", "is not there"),
        (f"{pictures}/*.png", "is not a folder of a disk or of a store"),
        ("https://data.example.org/pictures", "is not a folder of a disk or of a store"),
    ):
        refused = run("import", uri, "--format", "photos")
        assert refused.exit_code == 1
        assert message in refused.stderr


def test_an_import_from_s3(
    runtime: Any, tmp_path: Path, s3: S3Server, bucket: str, make_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT_URL", s3.url), ("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = {"a.png": make_image("red"), "b/c.png": make_image("blue"), "b/d.txt": b"", ".e/f.png": b"", "g.jpg": b"no"}
    for name, data in files.items():
        s3.files().pipe_file(f"{bucket}/pictures/{name}", data)
    settings = Settings(data_dir=tmp_path / "data", import_roots=f"s3://{bucket}/pictures")
    with serving(lambda: build(settings, runtime)) as url, Client(url) as client:
        client.create_collection("photos")
        job = client.wait_job(
            client.import_files("photos", f"s3://{bucket}/pictures", format="photos").id, timeout_s=60
        )
        assert (job.indexed, job.failed) == (2, 1)
        (failure,) = client.failures(job.id)
        assert failure.detail == "g.jpg is not the picture that its name says"
        assert client.document("photos", "b/c.png").metadata == {"folder": "b", "width": 8, "height": 8}
        assert job.progress is not None
        assert sum(job.progress.left_out.values()) == 2
