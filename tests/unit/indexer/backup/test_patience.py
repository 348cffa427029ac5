import random

import pytest

from indexer.backoff import Backoff
from indexer.backup.patience import Patience
from model.errors import DependencyUnavailable, InvalidInput, Overloaded


class Store:
    """Fails with the given errors, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    async def ask(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def patience(lines: list[str], patience_s: float = 60.0) -> Patience:
    return Patience(lines.append, patience_s, Backoff(0.001, 0.002), random.Random(1))


async def test_a_store_that_pauses_is_waited_for_and_said_once() -> None:
    lines: list[str] = []
    store = Store(DependencyUnavailable("the store is restarting"), DependencyUnavailable("no"), Overloaded("busy"))
    assert await patience(lines).call(store.ask) == "answer"
    assert store.calls == 4
    assert lines == ["waiting for the store: the store is restarting"]


async def test_an_error_that_stays_is_raised_at_once() -> None:
    store = Store(InvalidInput("no such value"))
    with pytest.raises(InvalidInput):
        await patience([]).call(store.ask)
    assert store.calls == 1


async def test_patience_ends() -> None:
    store = Store(*(DependencyUnavailable("gone") for _ in range(1000)))
    with pytest.raises(DependencyUnavailable, match="gone"):
        await patience([], 0.02).call(store.ask)
    assert 1 < store.calls < 100
