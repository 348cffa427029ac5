"""One model of a document for posts, loads and imports: the same fields, bounds and messages."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from indexer.domain.documents import Incoming, Rejected
from indexer.domain.incoming import DocumentBounds, DocumentIn, incoming, nesting
from indexer.imports.local_reader import read
from indexer.imports.planner import Imports, ImportSettings
from model.errors import InvalidInput, TooLarge
from model.types import Limits
from service.api.document_bodies import Bounds, documents_in, each_line

BOUNDS = DocumentBounds(Limits(max_text_chars=100), max_metadata_bytes=1000, max_metadata_depth=8)
SENTENCE = (
    "a whole number must be within 64 bits, -9223372036854775808 to 18446744073709551615; send a larger one as text"
)


async def _posted(line: bytes) -> Incoming | Rejected:
    async def stream() -> AsyncIterator[bytes]:
        yield line

    [item] = [item async for item in each_line(stream(), Bounds(BOUNDS, 5, 10_000, max_values=1_000))]
    return item


def _loaded(folder: Path, line: bytes) -> dict[str, Any] | InvalidInput:
    (folder / "docs.jsonl").write_bytes(line)
    [(_, document)] = read(folder / "docs.jsonl")
    return document


def _imported(folder: Path, line: bytes) -> Incoming | Rejected:
    (folder / "docs.jsonl").write_bytes(line)
    reader = Imports(ImportSettings((str(folder),), bounds=BOUNDS))
    [unit] = reader.plan(str(folder / "docs.jsonl"), "jsonl")
    [(_, item)] = reader.read(unit)
    return item


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"id": "b\n", "text": "x"}, "id: must be 1 to 512 characters, none of them a control character"),
    ({"id": "c"}, "neither text nor image: at least one is needed"),
    ({"text": 7}, "text: Input should be a valid string (got 7)"),
    (
        {"text": "x", "colour": "red"},
        "unknown field 'colour': a document has text, image, images, id, metadata, vector, fingerprint, parts; anything",
    ),
    ({"text": "x", "metadata": [1]}, "metadata: Input should be a valid dictionary"),
    ({"image": 3}, "image: an image is an object with url or with base64, a data URI or an http(s) URL (got 3)"),
    ({"text": "x", "metadata": {"a": {"b": [1, 2**64]}}}, f"metadata.a.b[1] is 18446744073709551616, {SENTENCE}"),
    ({"text": "x", "metadata": {"n": -(2**63) - 1}}, f"metadata.n is -9223372036854775809, {SENTENCE}"),
    ({"text": "x", "metadata": {"n": 10**100}}, f"metadata.n is a number of 333 bits, {SENTENCE}"),
]


@pytest.mark.parametrize(("document", "says"), WRONG)
async def test_what_is_wrong_is_said_alike_of_posts_loads_and_imports(
    tmp_path: Path, document: dict[str, Any], says: str
) -> None:
    line = json.dumps(document).encode()
    posted, loaded, imported = await _posted(line), _loaded(tmp_path, line), _imported(tmp_path, line)
    assert isinstance(posted, Rejected)
    assert isinstance(imported, Rejected)
    assert isinstance(loaded, InvalidInput)
    assert posted.detail.startswith(says)
    assert loaded.detail == imported.detail == f"docs.jsonl line 1: {posted.detail}"
    assert posted.code == imported.code == loaded.code


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"text": "x" * 101}, "text has 101 characters, limit is 100"),
        ({"text": "x", "metadata": {"a": "y" * 1000}}, "metadata has 1008 bytes as JSON, limit is 1000"),
        ({"text": "x", "metadata": {"a": json.loads("[" * 8 + "]" * 8)}}, "9 deep"),
        ({"image": "https://a.example/" + "x" * 9000}, "image URL has 9018 characters, limit is 8192"),
        ({"image": {"url": "https://a.example/" + "x" * 9000}}, "image URL has 9018 characters, limit is 8192"),
    ],
)
async def test_bounds_are_those_of_posts_and_imports(tmp_path: Path, document: dict[str, Any], says: str) -> None:
    line = json.dumps(document).encode()
    posted, imported = await _posted(line), _imported(tmp_path, line)
    assert isinstance(posted, Rejected)
    assert isinstance(imported, Rejected)
    assert says in posted.detail
    assert imported.detail == f"docs.jsonl line 1: {posted.detail}"
    assert posted.code == imported.code == TooLarge.code


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 2**53 + 1, 0])
async def test_whole_numbers_of_64_bits_are_exact_everywhere(tmp_path: Path, number: int) -> None:
    line = orjson.dumps({"text": "x", "metadata": {"n": number}})
    posted, imported = await _posted(line), _imported(tmp_path, line)
    assert isinstance(posted, Incoming)
    assert isinstance(imported, Incoming)
    loaded = _loaded(tmp_path, line)
    assert isinstance(loaded, dict)
    assert posted.metadata["n"] == imported.metadata["n"] == loaded["metadata"]["n"] == number


async def test_a_larger_number_harms_its_document_alone() -> None:
    body = b'[{"text": "a", "metadata": {"n": 100000000000000000000}}, {"text": "b", "metadata": {"n": 1e20}}]'
    values = documents_in(body, Bounds(BOUNDS, 5, 10_000, max_values=1_000))
    with pytest.raises(InvalidInput, match=r"metadata\.n is 100000000000000000000"):
        incoming(0, values[0], BOUNDS)
    assert incoming(1, values[1], BOUNDS).metadata == {"n": 1e20}


def test_depth_is_measured_without_recursion() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    assert nesting(deep) == 900
    assert nesting({"a": [1, {"b": 2}]}) == 3
    with pytest.raises(TooLarge, match="901 deep, limit is 8"):
        incoming(0, {"text": "x", "metadata": {"a": deep}}, BOUNDS)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"text": "half \ud800"}, "text has half a surrogate pair"),
        ({"text": "x", "metadata": {"a": ["\ud800"]}}, r"metadata.a\[0\] has half a surrogate pair"),
        ({"text": "x", "metadata": {"\ud800": 1}}, "metadata has half a surrogate pair"),
        ({"image": "https://a.example/\ud800"}, "image URL has half a surrogate pair"),
        ({"id": "\udfff", "text": "x"}, "id: "),
    ],
)
def test_half_a_surrogate_pair_is_no_character(document: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        incoming(0, document, BOUNDS)


def test_the_bytes_of_a_file_are_an_image_and_not_in_the_schema(make_image: Any) -> None:
    assert incoming(0, {"image": make_image()}, BOUNDS).image == make_image()
    assert "binary" not in json.dumps(DocumentIn.model_json_schema())


@pytest.mark.parametrize("key", ["", 'say "hello"', "back\\slash", "k" * 129])
def test_a_key_that_no_filter_can_name_is_refused(key: str) -> None:
    for metadata in ({key: 1}, {"parts": [{"inner": {key: 1}}]}):
        with pytest.raises(InvalidInput, match="a key has 1 to 128 characters"):
            incoming(0, {"id": "a", "text": "t", "metadata": metadata}, BOUNDS)
    longest = incoming(0, {"text": "t", "metadata": {"k" * 128: 1, "a.b [c]": 2}}, BOUNDS)
    assert set(longest.metadata) == {"k" * 128, "a.b [c]"}
