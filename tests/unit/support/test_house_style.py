"""The check of names and line lengths that `make check` runs."""

import pytest
from house_style import complaints, fragments, long_lines, vague_names


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "for one in range(3): pass",
        "def f(wanted): pass",
        "f = lambda other: other",
        "[each for each in ()]",
        "a, rest = 1, 2",
        "with open('x') as left: pass",
        "if (told := 1): pass",
    ],
)
def test_a_vague_name_is_refused_wherever_it_is_bound(source: str) -> None:
    assert len(list(vague_names(source))) == 1


def test_reading_an_attribute_of_that_name_is_no_binding() -> None:
    assert list(vague_names("x = result.found\nprint(each)")) == []


def test_a_field_of_a_class_may_have_a_name_of_the_wire() -> None:
    assert list(vague_names("class Filter:\n    of: int\n")) == []
    assert len(list(vague_names("class Filter:\n    found: int\n"))) == 1
    assert len(list(vague_names("class Filter:\n    def f(self, of: int): pass\n"))) == 1


def test_the_sentence_names_the_file_the_line_and_the_name() -> None:
    assert complaints("model/x.py", "a = 1\nfound = 2\n") == [
        "model/x.py:2: `found` says nothing; use a noun of the domain"
    ]
    assert complaints("tests/x.py", "found = 2\n") == []


def test_lines_over_120_columns() -> None:
    assert list(long_lines("x" * 120 + "\n" + "x" * 121)) == [2]


def test_what_markdown_cannot_wrap_may_be_longer() -> None:
    words = "word " * 30
    table = f"| {words} |"
    code = f"```\n{words}\n```"
    assert list(long_lines("\n".join([table, code, words]), markdown=True)) == [5]


@pytest.mark.parametrize(
    ("docstring", "count"),
    [
        ("Return the number of hits.", 0),
        ("The number of hits.", 1),
        ("Whether there are hits.", 1),
        ("Raises `NotFound`.", 1),
        ("(B, T) -> (B, D).", 1),
        ("`limit` is the number of hits.", 1),
    ],
)
def test_the_docstring_of_a_function_opens_with_a_verb(docstring: str, count: int) -> None:
    assert len(list(fragments(f'def count_hits():\n    """{docstring}"""\n'))) == count
    assert (
        list(
            fragments(
                f'class Hits:\n    """{docstring}"""\n    @property\n    def count(self):\n        """{docstring}"""\n'
            )
        )
        == []
    )
