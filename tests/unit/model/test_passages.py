"""Cutting texts: every word in a passage, every passage within the limit, ends of sentences where there are some."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import InvalidInput
from model.passages import Cut, Passages, cut_text, may_exceed


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def bytes_of(texts: list[str]) -> list[int]:
    return [len(text.encode()) for text in texts]


def passages(text: str, limit: int, cut: Cut | None = None) -> list[str]:
    return [text[start:end] for start, end in cut_text(text, cut or Cut(), limit, words).spans]


def test_a_short_text_is_one_passage() -> None:
    assert passages("One sentence. Another.", 10) == ["One sentence. Another."]
    assert passages("", 10) == passages(" \n", 10) == []


def test_a_text_is_cut_at_the_ends_of_its_sentences() -> None:
    text = "The first has five words. The second has as many! Has the third as many? Yes."
    assert passages(text, 10) == ["The first has five words. The second has as many!", "Has the third as many? Yes."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 3.5 euros, i.e. little. That is all.", ["It costs 3.5 euros, i.e. little.", "That is all."]),
        ('He said "no." She went.', ['He said "no."', "She went."]),
        ("A title\n\nA paragraph of words", ["A title", "A paragraph of words"]),
    ],
)
def test_what_ends_a_sentence(text: str, expected: list[str]) -> None:
    assert passages(text, max(words(expected))) == expected


def test_chinese_sentences_end_without_a_space() -> None:
    text = "东京是日本的首都。巴黎是法国的首都。"
    spans = cut_text(text, Cut(), 30, bytes_of).spans
    assert [text[start:end] for start, end in spans] == ["东京是日本的首都。", "巴黎是法国的首都。"]


def test_a_long_sentence_is_cut_between_words_and_a_long_word_between_characters() -> None:
    text = "one two three four five. " + "x" * 40
    found = cut_text(text, Cut(), 12, bytes_of)
    cut = [text[start:end] for start, end in found.spans]
    assert cut[:2] == ["one two", "three four"]
    assert max(bytes_of(cut)) <= 12
    assert "".join("".join(cut).split()) == "".join(text.split())


def test_passages_repeat_the_last_sentences_of_the_one_before() -> None:
    text = "One two. Three four. Five six. Seven eight."
    assert passages(text, 4, Cut(overlap=2)) == [
        "One two. Three four.",
        "Three four. Five six.",
        "Five six. Seven eight.",
    ]
    assert passages(text, 4, Cut(overlap=1)) == ["One two. Three four.", "Five six. Seven eight."]


def test_what_has_no_passage_is_counted() -> None:
    text = "One two. Three four. Five six. Seven eight nine."
    assert cut_text(text, Cut(most=2), 2, words) == Passages(((0, 8), (9, 20)), dropped_tokens=5)
    assert cut_text(text, Cut(most=4), 3, words).dropped_tokens == 0


def test_passages_of_no_tokens_are_refused() -> None:
    with pytest.raises(InvalidInput, match="0 tokens"):
        cut_text("text", Cut(), 0, words)


@given(
    st.text(st.sampled_from("ab é中。. !?\n\t…\"'"), max_size=200),
    st.integers(1, 40),
    st.integers(0, 20),
)
def test_nothing_is_lost_and_nothing_too_long(text: str, limit: int, overlap: int) -> None:
    found = cut_text(text, Cut(overlap=min(overlap, limit // 2), most=10_000), limit, bytes_of)
    covered = {place for start, end in found.spans for place in range(start, end)}
    assert all(text[place].isspace() for place in range(len(text)) if place not in covered)
    assert [start for start, _ in found.spans] == sorted({start for start, _ in found.spans})
    assert found.dropped_tokens == 0
    most = max(limit, 4)  # one character may have more tokens than a passage of one
    assert all(len(text[start:end].encode()) <= most for start, end in found.spans)


@given(st.text(max_size=50), st.integers(1, 60))
def test_a_text_that_may_not_exceed_is_never_longer(text: str, tokens: int) -> None:
    # A token a byte is the most that a tokenizer makes, with one at each end.
    if not may_exceed(text.encode("utf-8", "replace").decode(), tokens):
        assert bytes_of([text.encode("utf-8", "replace").decode()])[0] + 2 <= tokens
