"""Refuse names that say nothing, docstrings of functions without a verb, and lines over 120 columns.

`make check` runs it as `python tests/support/house_style.py`.

A name is refused where it is bound: assigned, a parameter, a loop or `with` target. Tables and pictures in Markdown
cannot be wrapped, so their lines may be longer.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_COLUMNS = 120
PRODUCT = ("model/", "indexer/", "service/")
VAGUE_NAMES = frozenset(
    """one each found wanted there asked told held known others other of by at what rest left more shown given kept
    mine ours""".split()  # noqa: SIM905  a list of lines is no easier to read
)
# Names that the wire or the filter language has, as annotated fields of a class alone.
FIELD_NAMES = frozenset({"of", "left", "other", "kept"})
# Words with which a docstring opens that does not say what its function does.
FRAGMENT_OPENERS = frozenset(
    """a all an any are as at by every for from has have his how in is it its none nothing of on one only raises
    returns some starts that the their there they this those to until what when where whether which who whoever whose why
    with without""".split()  # noqa: SIM905  as above
)
# Diagrams, and lists of words that are data.
_DRAWN = re.compile(r"[─►└┘├│]|noqa|\w+( \w+){20}|\w+(\|\w+){4}|(\"[\w-]+\", ){6}")
# What Markdown cannot wrap: rows of tables, pictures, headings, HTML comments, and lines that are one word after a list sign.
_UNWRAPPABLE = re.compile(r"\s*(\||!\[|#|<!--)|\s*[-*]?\s*\S+$")


def vague_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of every binding whose name is in `VAGUE_NAMES`."""
    tree = ast.parse(source)
    fields = {
        statement.target
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        else:
            continue
        if name in VAGUE_NAMES and not (node in fields and name in FIELD_NAMES):
            yield node.lineno, name


def fragments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of every function whose docstring does not open with a verb."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == "__init__":
            continue
        is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        words = (ast.get_docstring(node) or "").split()
        if not words or is_property:
            continue
        opener = words[0].rstrip(".,:;")
        if not opener[:1].isupper() or opener.lower() in FRAGMENT_OPENERS:
            yield node.lineno, node.name


def long_lines(text: str, markdown: bool = False) -> Iterator[int]:
    """Yield the number of every line over `MAX_COLUMNS`, but for what cannot be wrapped."""
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if markdown and line.startswith("```"):
            in_code = not in_code
        unwrappable = in_code or _UNWRAPPABLE.match(line) if markdown else _DRAWN.search(line)
        if len(line) > MAX_COLUMNS and not unwrappable:
            yield number


def complaints(path: str, text: str) -> list[str]:
    """Return a sentence for everything in this file that is refused."""
    sentences = []
    if path.startswith(PRODUCT) and path.endswith(".py"):
        sentences += [
            f"{path}:{line}: `{name}` says nothing; use a noun of the domain" for line, name in vague_names(text)
        ]
        sentences += [
            f"{path}:{line}: the docstring of `{name}` opens without a verb" for line, name in fragments(text)
        ]
    sentences += [
        f"{path}:{line}: longer than {MAX_COLUMNS} columns" for line in long_lines(text, markdown=path.endswith(".md"))
    ]
    return sentences


def main() -> int:
    """Check the product's Python and every page; return 1 if something is refused."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    checked = [
        name
        for name in names
        if (name.startswith(PRODUCT) and name.endswith(".py")) or name.endswith(".md")
        if not name.startswith(("benchmarks/results/", "k8s/"))
    ]
    sentences = [sentence for name in checked for sentence in complaints(name, (ROOT / name).read_text())]
    print("\n".join(sentences) or f"house style: {len(checked)} files checked")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
