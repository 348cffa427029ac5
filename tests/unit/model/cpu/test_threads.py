"""Forwards side by side: each has its own result, whoever raises."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from needs import needed

torch = needed("torch")

from tiny_model import write_tiny_checkpoint  # noqa: E402

from model.cpu.threads import ForwardThreads  # noqa: E402
from model.retriever import Retriever  # noqa: E402
from model.types import Encoded, Input, Limits, Prepared, Role  # noqa: E402
from service.encoder.runtime import TorchRuntime  # noqa: E402

THREADS = 3


@pytest.fixture
def threads() -> Iterator[ForwardThreads]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield ForwardThreads()
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


def test_side_by_side(threads: ForwardThreads, retriever: Retriever, make_image: Callable[..., bytes]) -> None:
    """What a tower keeps of a forward is of its thread: no row ever gets the states of another."""
    batch = batch_of(retriever, make_image)
    whole = retriever.launch(batch)()
    assert whole.shares is not None
    parts = [slice(0, 5), slice(5, 6), slice(6, 12)]
    for _ in range(50):
        waits = [threads.launch(retriever.launch, batch[part]) for part in parts]
        for part, wait in zip(parts, waits, strict=True):
            encoded = wait()
            assert np.abs(encoded.vectors - whole.vectors[part]).max() <= 1e-5
            assert encoded.shares is not None
            assert np.abs(encoded.shares - whole.shares[part]).max() <= 1e-5


def test_each_thread_has_one_inside_an_operation(threads: ForwardThreads) -> None:
    """Or there would be nine, and `threads` after all would mean nothing. Whoever had torch's own number keeps it."""
    seen: dict[str, int] = {}
    all_here = threading.Barrier(THREADS)

    def forward(batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        all_here.wait(10)
        seen[threading.current_thread().name] = torch.get_num_threads()
        return lambda: Encoded(np.zeros((len(batch), 2), np.float32))

    batch = [Prepared(Role.QUERY, np.zeros(8, np.int64), None, 8)] * 2
    for wait in [threads.launch(forward, batch) for _ in range(THREADS)]:
        assert wait().vectors.shape == (2, 2)
    assert sorted(seen.values()) == [1] * THREADS
    assert torch.get_num_threads() == THREADS


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are tied to CPUs on Linux alone")
@pytest.mark.parametrize(
    ("there", "own"),
    [
        ({4, 5, 6}, [{4}, {5}, {6}]),
        (set(range(8)), [{0, 3, 6}, {1, 4, 7}, {2, 5}]),
        ({0, 1}, []),  # too few to share out
    ],
)
def test_each_thread_has_cpus_of_its_own(monkeypatch: pytest.MonkeyPatch, there: set[int], own: list[set[int]]) -> None:
    """All there are; and the thread that made them keeps its own."""
    tied: dict[int, set[int]] = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: there)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: tied.update({threading.get_ident(): set(cpus)}))
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    ForwardThreads()
    torch.set_num_threads(before)
    assert threading.get_ident() not in tied
    assert sorted(map(sorted, tied.values())) == sorted(map(sorted, own))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are tied to CPUs on Linux alone")
def test_where_threads_cannot_be_tied_they_work_all_the_same(
    monkeypatch: pytest.MonkeyPatch, retriever: Retriever, make_image: Callable[..., bytes]
) -> None:
    """A thread that raised while it began would leave the others waiting for it, and the service would never start."""

    def forbidden(*_: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    threads = ForwardThreads()
    torch.set_num_threads(before)
    batch = batch_of(retriever, make_image)
    assert len(threads.launch(retriever.launch, batch)().vectors) == len(batch)


def test_what_one_raises_is_its_own(threads: ForwardThreads) -> None:
    def forward(batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        if any(item.cost == 9 for item in batch):
            raise RuntimeError("this one")
        return lambda: Encoded(np.zeros((len(batch), 2), np.float32))

    good, bad = (Prepared(Role.QUERY, np.zeros(cost, np.int64), None, cost) for cost in (8, 9))
    waits = [threads.launch(forward, batch) for batch in ([good], [good, bad], [good] * 3)]
    with pytest.raises(RuntimeError, match="this one"):
        waits[1]()
    assert [len(wait().vectors) for wait in (waits[0], waits[2])] == [1, 3]


@pytest.mark.parametrize(("alone", "inside"), [(True, THREADS), (False, 1)])
def test_a_cpu_uses_them(
    threads: ForwardThreads, retriever: Retriever, monkeypatch: pytest.MonkeyPatch, alone: bool, inside: int
) -> None:
    """But what is alone has all threads in each operation."""
    runtime = TorchRuntime(retriever, Limits())
    assert runtime.in_flight == THREADS
    forward, seen = retriever.launch, []
    monkeypatch.setattr(retriever, "launch", lambda batch: seen.append(torch.get_num_threads()) or forward(batch))
    runtime.launch([runtime.prepare(Input("one"), Role.QUERY)], alone=alone)()
    assert seen == [inside]
