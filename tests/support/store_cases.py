"""How many searches of each store the contract tests have compared with plain Python, summed over the processes of a run."""

from collections import Counter

CASES: Counter[str] = Counter()
