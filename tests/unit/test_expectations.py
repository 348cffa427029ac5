"""The table of what users expect: every row has its tests, and they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = (ROOT / "docs/expectations.md").read_text().partition("|---|---|---|\n")[2].splitlines()
# What is not there has no test.
WITHOUT = {"a slim client"}


def test_every_row_names_tests_that_exist() -> None:
    for row in ROWS:
        expectation, _, tests = (cell.strip() for cell in row.strip("| ").split(" | "))
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
        assert named or expectation in WITHOUT, expectation
        for path, test in named:
            assert not test or f"def {test}(" in (ROOT / path).read_text(), (path, test)
