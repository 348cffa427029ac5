"""Text within the limits takes time linear in it, whatever its characters are."""

import unicodedata

import pytest

from model.text import MAX_MARKS, pieces, stream_safe

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


def test_pieces_are_the_text_and_end_at_spaces() -> None:
    text = "one two three " * 1_000
    cut = list(pieces(text, 100))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 100
    assert all(piece[0] == " " for piece in cut[1:])
    assert "".join(pieces("x" * 950, 100)) == "x" * 950
    assert list(pieces("short")) == ["short"]
