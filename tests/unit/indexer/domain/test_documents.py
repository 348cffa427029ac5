"""Ids and hashes that other machines and later versions have to agree on."""

import hashlib

import pytest

from indexer.domain.documents import content_hash, content_id, point_id, stamped, unstamped
from indexer.domain.jobs import JobState


def test_the_id_of_a_point_never_changes() -> None:
    """A change here would double every document that is written again."""
    assert point_id("fr") == "cf45a95a-eafd-5c2c-9b1a-13f60f666ebb"
    assert point_id("a") != point_id("b")


def test_the_hash_of_a_content_never_changes() -> None:
    """A change here would embed every document once more."""
    canonical = '["é","0a",{"a":[null,true],"b":1}]'
    digest = content_hash("é", "0a", {"b": 1, "a": [None, True]})
    assert digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_stamp_says_of_which_content_and_model() -> None:
    """So that another model's stamp can be made of it when the original image is gone."""
    content = content_hash("t", "i", {"k": 1})
    assert unstamped(stamped(content, "fingerprint")) == content
    assert stamped(content, "fingerprint") != stamped(content, "other")


@pytest.mark.parametrize(
    "other",
    [("u", "i", {"k": 1}), ("t", "j", {"k": 1}), ("t", "i", {"k": 2}), ("t", None, {"k": 1}), (None, "i", {"k": 1})],
)
def test_every_part_of_a_content_counts(other: tuple[str | None, str | None, dict[str, int]]) -> None:
    assert content_hash(*other) != content_hash("t", "i", {"k": 1})
    assert content_id(*other) != content_id("t", "i", {"k": 1})


def test_the_order_of_keys_does_not_count() -> None:
    assert content_hash("t", None, {"a": 1, "b": {"c": 2, "d": 3}}) == content_hash(
        "t", None, {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_states_that_are_final() -> None:
    assert {state for state in JobState if not state.finished} == {JobState.QUEUED, JobState.RUNNING, JobState.WAITING}
