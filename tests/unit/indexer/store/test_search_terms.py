"""Metadata as they are stored."""

from indexer.store.search_terms import TERMS, with_terms, without_terms

METADATA = {"brand": "Café", "name": "Big red", "n": 2**60, "many": [2**60, "Red"]}


def test_a_single_term_is_no_list() -> None:
    terms = with_terms(METADATA)[TERMS]
    assert terms == {
        "brand": "café",
        "name": ["big", "red"],
        "n": f"={2**60}",
        "many": [f"={2**60}", "red"],
    }


def test_metadata_come_back_as_they_were_posted() -> None:
    assert without_terms(with_terms(METADATA)) == METADATA
