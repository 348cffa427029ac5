"""A forward by several threads with rows of their own: the same result in the same order, whoever raises."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from needs import needed

torch = needed("torch")

from tiny_model import write_tiny_checkpoint  # noqa: E402

from model import rows as rows_module  # noqa: E402
from model.inputs import Encoded, Input, Limits, Prepared, Role  # noqa: E402
from model.retriever import Retriever  # noqa: E402
from model.rows import RowThreads  # noqa: E402
from service.encoder.runtime import TorchRuntime  # noqa: E402

THREADS = 3


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[RowThreads]:
    monkeypatch.setattr(rows_module, "_MIN_PART_COST", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield RowThreads()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return Retriever.load(str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))))


def batch_of(retriever: Retriever, make_image: Callable[..., bytes]) -> list[Prepared]:
    """Twelve texts, images and both, of several lengths, in turn, queries and documents."""
    words = ["one", "two", "red", "blue", "a", "square", "a", "two", "red", "one", "one", "blue"]
    items = [
        Input(
            None if number % 3 == 1 else " ".join(words[: number + 1]), make_image(colour=word) if number % 3 else None
        )
        for number, word in enumerate(["red", "blue", "green", "black"] * 3)
    ]
    roles = [Role.QUERY, Role.DOCUMENT]
    return [retriever.prepare(item, roles[number // 2 % 2], Limits()) for number, item in enumerate(items)]


def test_the_same_as_in_one_piece(rows: RowThreads, retriever: Retriever, make_image: Callable[..., bytes]) -> None:
    batch = batch_of(retriever, make_image)
    whole, apart = retriever.launch(batch)(), rows.run(retriever.launch, batch)
    assert len(rows.parts(batch)) == THREADS
    assert np.abs(apart.vectors - whole.vectors).max() <= 1e-5
    assert whole.shares is not None
    assert apart.shares is not None
    assert np.abs(apart.shares - whole.shares).max() <= 1e-5


def test_many_times_at_once(rows: RowThreads, retriever: Retriever, make_image: Callable[..., bytes]) -> None:
    """What a tower keeps of a forward is of its thread: no row ever gets the states of another."""
    batch = batch_of(retriever, make_image)
    whole = retriever.launch(batch)().vectors
    for _ in range(50):
        assert np.abs(rows.run(retriever.launch, batch).vectors - whole).max() <= 1e-5


def test_parts_are_alike_in_cost_and_kind(rows: RowThreads) -> None:
    texts, pictures = ([Prepared(Role.QUERY, *of, cost) for _ in range(count)] for count, cost, of in TWO_KINDS)
    mixed = [one for pair in zip(texts, pictures * 5, strict=False) for one in pair]
    parts = rows.parts(mixed)
    assert sorted(row for part in parts for row in part) == list(range(len(mixed)))
    costs = [sum(mixed[row].cost for row in part) for part in parts]
    assert max(costs) - min(costs) <= max(one.cost for one in mixed)
    assert sum(len({mixed[row].pixels is None for row in part}) == 2 for part in parts) <= 1


TWO_KINDS: list[tuple[int, int, tuple[Any, Any]]] = [
    (30, 4, (np.zeros(4, np.int64), None)),
    (6, 20, (None, np.zeros((3, 2, 2), np.float32))),
]


def test_too_little_for_all_goes_in_one_piece(rows: RowThreads) -> None:
    few = [Prepared(Role.QUERY, np.zeros(4, np.int64), None, 4)] * 5
    assert rows.parts(few) == [[0, 1, 2, 3, 4]]


def test_each_thread_has_one_inside_an_operation(rows: RowThreads) -> None:
    """Or there would be nine, and `threads` after all would mean nothing. Whoever had torch's own number keeps it."""
    seen: dict[str, int] = {}
    all_here = threading.Barrier(THREADS)

    def forward(part: Sequence[Prepared]) -> Callable[[], Encoded]:
        all_here.wait(10)
        seen[threading.current_thread().name] = torch.get_num_threads()
        return lambda: Encoded(np.zeros((len(part), 2), np.float32))

    batch = [Prepared(Role.QUERY, np.zeros(8, np.int64), None, 8)] * 6
    assert rows.run(forward, batch).vectors.shape == (6, 2)
    assert sorted(seen.values()) == [1] * THREADS
    assert torch.get_num_threads() == THREADS


def test_what_a_part_raises_is_raised(rows: RowThreads) -> None:
    def forward(part: Sequence[Prepared]) -> Callable[[], Encoded]:
        if any(item.cost == 9 for item in part):
            raise RuntimeError("this one")
        return lambda: Encoded(np.zeros((len(part), 2), np.float32))

    batch = [Prepared(Role.QUERY, np.zeros(8, np.int64), None, 8)] * 5
    with pytest.raises(RuntimeError, match="this one"):
        rows.run(forward, [*batch, Prepared(Role.QUERY, np.zeros(9, np.int64), None, 9)])
    assert rows.run(forward, batch).vectors.shape == (5, 2)


def test_a_cpu_uses_them(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    run = RowThreads.run
    monkeypatch.setattr(
        RowThreads, "run", lambda self, forward, batch: ran.append(len(batch)) or run(self, forward, batch)
    )
    runtime = TorchRuntime(retriever, Limits())
    runtime.launch([runtime.prepare(Input("one"), Role.QUERY)])()
    assert ran == [1]
    assert runtime.in_flight == 1
