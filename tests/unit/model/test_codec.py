"""What the encoder's client and the encoder service say to each other: everything survives the way, and bad bytes are errors."""

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import codec
from model.errors import EncodeFailed, InvalidInput, TooLarge
from model.types import Embedding, Input, ModelInfo, Role, Timing

INFO = ModelInfo("m", "f" * 64, 3, 16, 32)

inputs = st.lists(
    st.builds(Input, text=st.none() | st.text(max_size=20), image=st.none() | st.binary(max_size=20)), min_size=1
)


@given(items=inputs, role=st.sampled_from(Role), lane=st.sampled_from(["search", "bulk"]))
def test_a_call_arrives_as_it_was_sent(items: list[Input], role: Role, lane: str) -> None:
    assert codec.unpack_call(codec.pack_call(items, role, lane)) == codec.Call(role, lane, None, items)  # type: ignore[arg-type]


def test_an_answer_arrives_as_it_was_sent() -> None:
    vector = np.array([0.1, -2.0, 3e-9], np.float32)
    shares, latents = ((0.25, 0.75), (1.0, 0.0)), np.array([[1, 2, 3], [4, 5, 6.5]], np.float32)
    embedding = Embedding(vector, INFO.fingerprint, 2, 34, Timing(0.5, 0.25, 0.125), shares, latents)
    sent = [embedding, EncodeFailed("the forward raised"), TooLarge("text is long", field="text", value=9, limit=8)]
    got, failed, large = codec.unpack_answer(codec.pack_answer(INFO, sent))
    assert isinstance(got, Embedding)
    assert got.vector.tobytes() == vector.tobytes()
    assert (got.fingerprint, got.dropped_tokens, got.cost, got.timing) == (
        INFO.fingerprint,
        2,
        34,
        embedding.timing,
    )
    assert (type(failed), str(failed)) == (EncodeFailed, "the forward raised")
    assert got.shares == shares
    assert got.latents is not None
    assert got.latents.tolist() == latents.tolist()
    assert isinstance(large, TooLarge)
    assert (large.detail, large.field, large.limit) == ("text is long", "text", 8)


def test_what_a_model_does_not_give_is_not_made_up() -> None:
    (got,) = codec.unpack_answer(codec.pack_answer(INFO, [Embedding(np.ones(3, np.float32), INFO.fingerprint)]))
    assert isinstance(got, Embedding)
    assert (got.shares, got.latents) == (None, None)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"text": 3}, "text is int"),
        ({"image": "abc"}, "image is str"),
        ({"txet": "x"}, "unknown fields of an input: txet"),
        (7, "an input is int"),
    ],
)
def test_a_wrong_input_harms_only_itself(item: object, says: str) -> None:
    body = msgpack.packb({"role": "query", "inputs": [{"text": "good"}, item]})
    good, wrong = codec.unpack_call(body).inputs
    assert good == Input("good")
    assert isinstance(wrong, InvalidInput)
    assert says in wrong.detail


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x82\xa1a", "not msgpack"),
        (msgpack.packb([1]), "the body is list"),
        (msgpack.packb({"role": "king", "inputs": [{}]}), "role is 'king'"),
        (msgpack.packb({"role": "query", "inputs": []}), "inputs is not a list of one or more"),
        (msgpack.packb({"role": "query", "inputs": {"text": "x"}}), "inputs is not a list"),
        (msgpack.packb({"role": "query", "lane": 4, "inputs": [{}]}), "lane is 4"),
        (msgpack.packb({"role": "query", "models": "x", "inputs": [{}]}), "unknown fields: models"),
        (msgpack.packb({1: "x"}), "unknown fields: 1"),
    ],
)
def test_what_is_no_call(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        codec.unpack_call(body)


NUMBERS = {"embedding": b"", "dropped_tokens": 0, "cost": 0, "decode_s": 0, "queue_s": 0, "encode_s": 0}


@pytest.mark.parametrize(
    "results",
    [None, 1, "abc", {"a": 1}, [1], [None], [[]], [{}], [{"error": 1}], [{"error": {"code": "x"}}]]
    + [[NUMBERS | wrong] for wrong in ({"embedding": 3}, {"embedding": b"x"}, {"cost": float("inf")}, {"queue_s": []})],
)
def test_what_is_no_answer(results: object) -> None:
    with pytest.raises(InvalidInput, match="no encoder's answer"):
        codec.unpack_answer(msgpack.packb({"fingerprint": "f", "results": results}))


@pytest.mark.parametrize("body", [b"<html>", msgpack.packb({})])
def test_what_is_not_even_shaped_like_one(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        codec.unpack_answer(body)


def test_half_a_surrogate_pair_travels() -> None:
    """A text that a model takes in this process, it takes in another one (promise 7), and no other input suffers (promise 2)."""
    items = [Input("half \ud83d of a pair"), Input("whole")]
    assert codec.unpack_call(codec.pack_call(items, Role.QUERY, "search")).inputs == items


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for unpack in (codec.unpack_call, codec.unpack_answer):
        with contextlib.suppress(InvalidInput):
            unpack(body)


def test_lists_are_bounded_before_they_are_built() -> None:
    head = b"\x82\xa4role\xa5query\xa6inputs"
    many = head + b"\xdd" + (50_000_000).to_bytes(4, "big") + bytes([0xC0]) * 50
    with pytest.raises(TooLarge, match="50000000 inputs in one call, limit is 256"):
        codec.unpack_call(many, 256)
    row = b"\xdc\x01\x00" + bytes([0xC0]) * 256
    with pytest.raises(InvalidInput, match="several lists"):
        codec.unpack_call(head + b"\xdc\x01\x00" + row * 256, 256)
    wide = head + b"\x91\xdf" + (1_000_000).to_bytes(4, "big")
    with pytest.raises(InvalidInput, match="not msgpack"):
        codec.unpack_call(wide, 256)
