"""What is kept of images, and where: through the HTTP API, in a folder and on a real S3 server."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from s3_server import KEY, SECRET, S3Server

from indexer.worker.image_sweeper import Sweeper
from model.errors import InvalidInput
from service.settings import Settings
from service.wiring import build

Make = Callable[..., bytes]


def b64(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


def photograph(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((640, 320), 60 + seed).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def seen(runtime: Any) -> list[bytes]:
    """The image files that the model was given."""
    found: list[bytes] = []
    runtime.on_prepare = lambda item: found.append(item.image) if item.image is not None else None
    return found


async def image_of(served: Any, document_id: str) -> Any:
    return await served.client.get(f"/collections/flags/documents/{document_id}/image")


async def test_a_thumbnail_is_kept_and_the_model_sees_the_original(serve: Make, seen: list[bytes]) -> None:
    served: Any = await serve(keep_images="thumbnail", thumbnail_px=64)
    original = photograph()
    await served.load({"id": "a", "text": "red", "image": b64(original)})
    assert seen == [original]
    answer = await image_of(served, "a")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 32)
    (hit,) = (await served.search("red"))["hits"]
    kept = await served.client.get(hit["image_url"])
    assert kept.content == answer.content
    assert "immutable" in kept.headers["cache-control"]

    again = await served.load({"id": "a", "text": "red", "image": b64(original)})
    assert [one["status"] for one in again["results"]] == ["skipped"], "unchanged is told by the original"
    changed = await served.load({"id": "a", "text": "red", "image": b64(photograph(1))})
    assert [one["status"] for one in changed["results"]] == ["indexed"]


async def test_nothing_is_kept(serve: Make, seen: list[bytes]) -> None:
    served: Any = await serve(keep_images="none")
    await served.load({"id": "a", "text": "red", "image": b64(photograph())})
    assert len(seen) == 1
    (hit,) = (await served.search("red"))["hits"]
    assert hit["image_url"] is None
    answer = await image_of(served, "a")
    assert answer.status_code == 404
    assert "RET2_KEEP_IMAGES=none" in answer.json()["detail"]


async def test_a_fetched_image_is_kept_as_a_posted_one_is(
    serve: Make, seen: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: Any = await serve(keep_images="thumbnail", thumbnail_px=64)
    original = photograph()

    async def fetch(_url: str) -> bytes:
        return original

    monkeypatch.setattr(served.parts.fetcher, "fetch", fetch)
    await served.load({"id": "a", "image": {"url": "https://host/a.png"}})
    assert seen == [original]
    assert Image.open(io.BytesIO((await image_of(served, "a")).content)).size == (64, 32)


async def test_images_in_a_folder_of_choice(serve: Make, tmp_path: Path, make_image: Make) -> None:
    served: Any = await serve(blobs_url=str(tmp_path / "pictures"))
    await served.load({"id": "a", "image": b64(make_image("red"))})
    assert len([path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]) == 1
    assert not (tmp_path / "blobs").exists()
    assert (await image_of(served, "a")).content == make_image("red")


async def test_images_on_s3(
    serve: Make,
    s3: S3Server,
    bucket: str,
    make_image: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the URL alone, with what the environment says, as a deployment has it."""
    for name, value in (("ENDPOINT_URL", s3.url), ("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    served: Any = await serve(blobs_url=f"s3://{bucket}/images", keep_images="thumbnail", thumbnail_px=64)
    original = photograph()
    await served.load(
        {"id": "large", "text": "red", "image": b64(original)}, {"id": "small", "image": b64(make_image("red"))}
    )
    answer = await image_of(served, "large")
    assert Image.open(io.BytesIO(answer.content)).size == (64, 32)
    assert answer.headers["etag"]
    assert (await image_of(served, "small")).content == make_image("red")
    # the two originals, of which a thumbnail replaces one
    assert len(s3.files().find(f"{bucket}/images")) == 3

    s3.files().rm(f"{bucket}/images", recursive=True)
    lost = await image_of(served, "large")
    assert lost.status_code == 404
    assert SECRET not in caplog.text


def test_a_wrong_place_is_refused_as_it_is_built(tmp_path: Path, runtime: Any) -> None:
    settings = Settings(data_dir=tmp_path, blobs_url="s3://key:hunter2@bucket/images")
    with pytest.raises(InvalidInput, match="carries credentials") as refused:
        build(settings, runtime)
    assert "hunter2" not in refused.value.detail


# --- thumbnails beside what is kept


async def test_a_thumbnail_beside_the_original(serve: Make) -> None:
    served: Any = await serve()
    original = photograph()
    await served.load({"id": "a/b", "text": "red", "image": b64(original)})
    (hit,) = (await served.search("red"))["hits"]
    document = (await served.client.get("/collections/flags/documents/a%2Fb")).json()
    assert hit["thumbnail_url"] == document["thumbnail_url"] == f"{hit['image_url']}&width=256"
    small = await served.client.get(hit["thumbnail_url"])
    assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
    assert small.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert small.headers["vary"] == "authorization, x-api-key"
    assert "sandbox" in small.headers["content-security-policy"]
    assert Image.open(io.BytesIO(small.content)).size == (256, 128)
    assert (await served.client.get(hit["image_url"])).content == original
    etag = small.headers["etag"]
    assert etag != (await served.client.get(hit["image_url"])).headers["etag"]
    assert (await served.client.get(hit["thumbnail_url"], headers={"if-none-match": etag})).status_code == 304
    large = await served.client.get("/collections/flags/documents/a%2Fb/image?width=1024")
    assert large.headers["cache-control"] == "private, no-cache"
    assert Image.open(io.BytesIO(large.content)).size == (640, 320)


async def test_other_widths_are_refused(served: Any, make_image: Make) -> None:
    await served.load({"id": "a", "image": b64(make_image("red"))}, {"id": "text", "text": "red"})
    for width in ("0", "255", "512", "-1", "1e9", "small", "256.5"):
        answer = await served.client.get(f"/collections/flags/documents/a/image?width={width}")
        assert answer.status_code == 422, width
        assert "256" in answer.text
        assert "1024" in answer.text
    none = await served.client.get("/collections/flags/documents/text/image?width=256")
    assert none.status_code == 404
    assert (await served.client.get("/collections/flags/documents/text")).json()["thumbnail_url"] is None


async def test_thumbnails_of_a_kept_thumbnail_and_of_nothing(serve: Make) -> None:
    served: Any = await serve(keep_images="thumbnail", thumbnail_px=300)
    await served.load({"id": "a", "image": b64(photograph())})
    small = await served.client.get("/collections/flags/documents/a/image?width=256")
    assert Image.open(io.BytesIO(small.content)).size == (256, 128)
    kept = await served.client.get("/collections/flags/documents/a/image")
    large = await served.client.get("/collections/flags/documents/a/image?width=1024")
    assert large.content == kept.content, "it is no larger"


async def test_a_telephone_s_picture_is_searched_with_and_shown(served: Any) -> None:
    heic = (Path(__file__).parents[2] / "support" / "turned.heic").read_bytes()
    answer = await served.load({"id": "a", "text": "red", "image": b64(heic)})
    assert [result["status"] for result in answer["results"]] == ["indexed"]
    original = await served.client.get("/collections/flags/documents/a/image")
    assert (original.headers["content-type"], original.content) == ("image/heic", heic)
    assert original.headers["content-disposition"] == "attachment"
    small = await served.client.get("/collections/flags/documents/a/image?width=256")
    assert (small.headers["content-type"], "content-disposition" in small.headers) == ("image/jpeg", False)
    assert Image.open(io.BytesIO(small.content)).size == (48, 64)


async def test_thumbnails_on_s3_come_and_go_with_their_image(
    serve: Make, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT_URL", s3.url), ("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    served: Any = await serve(blobs_url=f"s3://{bucket}/images")
    await served.load({"id": "a", "image": b64(photograph())}, {"id": "b", "image": b64(photograph(1))})
    for document_id in ("a", "b"):
        for width in (256, 1024):
            url = f"/collections/flags/documents/{document_id}/image?width={width}"
            assert (await served.client.get(url)).status_code == 200
    assert len(s3.files().find(f"{bucket}/images/thumbnails")) == 4
    deleted = await served.client.delete("/collections/flags/documents/a?wait=true")
    assert deleted.status_code == 200
    await Sweeper(served.parts.ledger, served.parts.store, served.parts.blobs, 3600.0).sweep()
    assert len(s3.files().find(f"{bucket}/images/thumbnails")) == 2
    assert (await served.client.get("/collections/flags/documents/b/image?width=256")).status_code == 200
