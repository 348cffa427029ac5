"""Passages: what is marked is what the ranking counts, and the offsets are those of the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexer.store.bm25 import query_words
from service.search.highlights import MAX_PASSAGES, PASSAGE_CHARS, passages

FILLER = "Filler words stand here and say nothing. " * 10


def marked(text: str, query: str, language: str = "simple") -> list[list[str]]:
    return [[text[word["start"] : word["end"]] for word in cut["words"]] for cut in passages(text, query, language)]


def test_words_are_marked_as_the_ranking_compares_them() -> None:
    cases = [
        ("The running horses", "horse runs the", "english", ["running", "horses"]),
        ("The running horses", "horse runs", "simple", []),
        ("Die Häuser der Straße", "strasse haus", "german", ["Häuser", "Straße"]),
        ("Decimals, decibels", "decimla decib", "english+tolerant", ["decibels"]),
        ("Decimal and decibels", "decimla decib", "english+tolerant", ["Decimal", "decibels"]),
        ("a cafe\u0301, foo_bar", "café bar", "simple", ["cafe\u0301", "bar"]),
        ("東京都の図書館", "東京都", "simple", ["東京都"]),
        ("ＴＥＬ ℡ ｶﾞｷﾞ", "tel ガギ", "simple", ["ＴＥＬ", "℡", "ｶﾞｷﾞ"]),
        ("\u1100\u1161\u11a8 각각", "각", "simple", ["\u1100\u1161\u11a8"]),
    ]
    for text, query, language, words in cases:
        assert [word for cut in marked(text, query, language) for word in cut] == words, text


def test_the_best_passages_are_chosen_and_stand_in_the_order_of_the_text() -> None:
    text = f"Red. {FILLER} Red. {FILLER} Here a red boot. {FILLER} Red and red. {FILLER} Red."
    assert marked(text, "red boot") == [["Red"], ["red", "boot"], ["Red", "red"]]
    first, second, _ = passages(text, "red boot", "simple")
    assert (first["start"], second["text"][:16]) == (0, "Here a red boot.")


def test_there_is_nothing_without_words() -> None:
    for text, query in ((None, "red"), ("red", None), ("", "red"), ("red", "blue"), ("red", "!?")):
        assert passages(text, query, "simple") == []


@given(
    st.text(st.sampled_from("abß東京都 .\n\u0301ﬁ½ｶﾞ_각"), max_size=600), st.text(st.sampled_from("ab東京 "), max_size=9)
)
def test_offsets_are_those_of_the_text(text: str, query: str) -> None:
    sought = set(query_words(query, "simple").ids)
    behind = 0
    cut = passages(text, query, "simple")
    assert len(cut) <= MAX_PASSAGES
    for passage in cut:
        assert behind <= passage["start"] < passage["end"] <= len(text)
        assert passage["text"] == text[passage["start"] : passage["end"]]
        assert len(passage["text"]) <= PASSAGE_CHARS or len(passage["words"]) == 1
        behind = passage["start"]
        assert passage["words"]
        for word in passage["words"]:
            assert behind <= word["start"] < word["end"] <= passage["end"]
            behind = word["end"]
            assert sought & set(query_words(text[word["start"] : word["end"]], "simple").ids)
