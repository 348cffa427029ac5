"""Text within the limits takes time linear in it, whatever its characters are."""

import unicodedata
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import text as text_module
from model.preprocess import normalise_text
from model.text import MAX_MARKS, Form, normalise, stream_safe
from model.types import Limits

# Falling combining classes are what sorting by insertion likes least.
MARKS = [
    mark
    for mark in map(chr, range(0x300, 0x370))
    if unicodedata.combining(mark) and not unicodedata.decomposition(mark)
]
FALLING_MARKS = "".join(sorted(MARKS, key=lambda mark: -unicodedata.combining(mark)))


def longest_run(text: str) -> int:
    longest = run = 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        longest = max(longest, run)
    return longest


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_no_run_of_marks_is_longer_than_the_bound(form: str) -> None:
    text = "a" + FALLING_MARKS * 1_250
    assert longest_run(stream_safe(text)) == MAX_MARKS
    assert longest_run(unicodedata.normalize(form, stream_safe(text))) <= MAX_MARKS
    assert stream_safe(text).replace("\u034f", "") == text


@pytest.mark.parametrize("text", ["", "plain", "über", "e\u0301", "नमस्ते", "a" + "\u0301" * MAX_MARKS + "b"])
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert unicodedata.normalize("NFC", stream_safe(text)).replace("\u034f", "") == unicodedata.normalize("NFC", text)
    if longest_run(text) < MAX_MARKS:
        assert stream_safe(text) == text


FORMS: tuple[Form, ...] = ("NFC", "NFKC")
FALLING = "".join(mark * 25_000 for mark in ("\u0345", "\u0301", "\u0316", "\u05b0"))
RANGES = (
    (0x41, 0x5A),
    (0xC0, 0x24F),
    (0x300, 0x36F),
    (0x900, 0x97F),
    (0x1100, 0x11FF),
    (0xAC00, 0xAC1F),
    (0xFF60, 0xFF9F),
)
TEXTS = st.text(st.one_of(*(st.characters(min_codepoint=low, max_codepoint=high) for low, high in RANGES)), max_size=80)


@given(TEXTS, st.sampled_from(FORMS), st.integers(1, 9))
def test_pieces_give_what_the_whole_gives(text: str, form: Form, piece: int) -> None:
    with patch.object(text_module, "_PIECE_CHARS", piece):
        assert normalise(form, text) == unicodedata.normalize(form, stream_safe(text))


@given(TEXTS, st.sampled_from(FORMS))
def test_a_text_without_long_runs_is_normalised_as_ever(text: str, form: Form) -> None:
    spaced = " ".join(text[start : start + MAX_MARKS] for start in range(0, len(text), MAX_MARKS))
    assert normalise(form, spaced) == unicodedata.normalize(form, spaced)


def test_half_width_voicing_marks_are_marks_too() -> None:
    """They are none by their own class, but decompose to marks in NFKC."""
    assert stream_safe("\uff9e\u0301" * 100).count("\u034f") == 200 // MAX_MARKS


@pytest.mark.parametrize("form", FORMS)
def test_the_marks_that_are_sorted_together_are_few(form: Form) -> None:
    """Counts the work and not the time: each call of `unicodedata` has a short text."""
    sizes: list[int] = []

    def counted(form: str, text: str) -> str:
        sizes.append(len(text))
        return unicodedata_normalize(form, text)

    unicodedata_normalize = unicodedata.normalize
    normalise(form, "á")  # the tables are made
    with patch.object(unicodedata, "normalize", counted):
        normalise(form, ("a" + FALLING) * 2)
    assert max(sizes) < 10_000
    assert sum(sizes) < 2 * 105_000


def test_the_text_of_an_input_is_bounded_first() -> None:
    limits = Limits()
    text = normalise_text("a" + FALLING[: limits.max_text_chars - 1], limits)
    assert text.count("\u034f") == (limits.max_text_chars - 1) // MAX_MARKS
