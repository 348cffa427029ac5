"""Words and their weights: what they are in each language, that they stay what they are, and that they are bounded."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.filters.words import words
from indexer.store import bm25
from indexer.store.bm25 import document_words, languages, query_words, tokens
from model.errors import InvalidInput


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("simple", "The Running-Man's 3.14 x_y", ["the", "running", "man", "s", "3", "14", "x", "y"]),
        (
            "simple",
            "Straße STRASSE ①② ﬁn",
            ["strasse", "strasse", "12", "fin"],
        ),  # case folded, compatibility forms unified
        ("simple", "cafe\u0301 café", ["café", "café"]),
        ("simple", "हिन्दी किताबें", ["हिन्दी", "किताबें"]),  # vowels that are marks stay in their words
        ("simple", "東京都の図書館 Tokyo東", ["東京", "京都", "都の", "の図", "図書", "書館", "tokyo", "東"]),
        ("simple", " \n!?…", []),
        ("english", "The horses were running, but we don't", ["hors", "run"]),
        ("german", "Die Häuser der Stadt", ["haus", "stadt"]),
        ("french", "l'eau et les maisons", ["eau", "maison"]),
    ],
)
def test_words_of_a_text(language: str, text: str, wanted: list[str]) -> None:
    assert tokens(text, language) == wanted


@pytest.mark.parametrize(
    ("word", "language", "wanted"),
    [
        ("word", "simple", 0x84CD7879),
        ("東京", "simple", 0x45A08ABD),
        ("running", "english", 0x5A899DC8),
        ("häuser", "german", 0x19A56B62),
    ],
)
def test_ids_never_change(word: str, language: str, wanted: int) -> None:
    """Stored vectors are made of them: if this fails after an update of a library, every collection would have to be filled anew."""
    assert query_words(word, language).ids == (wanted,)


def test_a_document_s_weights_are_bm25_s() -> None:
    words = document_words("rare word word " + "word " * 61, "simple")  # as long as the mean: the norm is K1
    by_id = dict(zip(words.ids, words.weights, strict=True))
    assert by_id[query_words("rare", "simple").ids[0]] == pytest.approx(2.2 / 2.2)
    assert by_id[query_words("word", "simple").ids[0]] == pytest.approx(63 * 2.2 / (63 + 1.2))
    (short,) = document_words("rare", "simple").weights
    assert short > 1.5  # a short text is about its words


def test_a_query_counts_words_and_is_bounded() -> None:
    assert query_words("b a b", "simple").weights in ((1.0, 2.0), (2.0, 1.0))
    long = query_words(" ".join(f"w{i}" for i in range(10_000)), "simple")
    assert len(long.ids) == bm25.MAX_QUERY_WORDS


def test_words_that_share_an_id_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "_numbers", bm25._Numbers)
    monkeypatch.setattr(bm25, "_id", lambda _word, _language: 7)
    assert document_words("one two", "simple").ids == (7,)
    assert query_words("one two", "simple").weights == (2.0,)


@given(text=st.text(max_size=200), language=st.sampled_from(["simple", "english", "hindi", "arabic"]))
def test_any_text_gives_a_sparse_vector(text: str, language: str) -> None:
    for sparse in (document_words(text, language), query_words(text, language)):
        assert list(sparse.ids) == sorted(set(sparse.ids))
        assert all(0 <= one < 2**32 for one in sparse.ids)
        assert all(0 < weight < 1e6 for weight in sparse.weights)


def test_every_language_stems(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in languages():
        assert bm25.check_language(language) == language
        assert len(tokens("xyzzy 東京", language)) == 2
    with pytest.raises(InvalidInput, match=r"language is 'klingon', known are simple, arabic, .*, yiddish"):
        bm25.check_language("klingon")


def test_threads_do_not_mix_their_words_up() -> None:
    """A stemmer holds the word that it is at."""
    text = " ".join(f"running{i} houses{i} nationalities" for i in range(300))
    wanted = tokens(text, "english")
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(tokens(text, "english"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


@pytest.mark.parametrize("language", bm25.languages())
def test_a_word_of_100_000_letters_is_neither_stemmed_nor_kept(language: str) -> None:
    word = "я" * 50_000 + "ing" * 16_667
    bm25._numbers.cache_clear()
    assert bm25.tokens(word, language) == [word]
    assert len(bm25.document_words(word, language).ids) == 1
    assert word not in bm25._numbers(language)


@given(st.text(max_size=60))
def test_filters_and_lexical_search_normalise_alike(text: str) -> None:
    assert words(text) == bm25.tokens(text, "simple")
