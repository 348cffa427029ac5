"""The queue by itself, over random traffic: the budget holds, nothing is lost or doubled, first in first out within a lane."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from unittest.mock import sentinel

import pytest
from fake_runtime import FakeRuntime
from hypothesis import given
from hypothesis import strategies as st

from indexer.encoding.encoder import Lane
from model.errors import DependencyUnavailable
from model.types import Input, Prepared, Role
from service.encoder.budget import Budget
from service.encoder.lanes import Entry
from service.encoder.loaded import LoadedModel
from service.encoder.queue import Queue
from service.settings import QueueSettings

Traffic = list[tuple[Lane, int, bool, bool]]  # lane, cost, its caller leaves, its batch fails once

traffic = st.lists(st.tuples(st.sampled_from(Lane), st.integers(1, 12), st.booleans(), st.booleans()), max_size=40)


def model(max_batch_cost: int = 2_048) -> LoadedModel:
    return LoadedModel(FakeRuntime(), Budget(max_batch_cost, fixed=True))


MODEL = model()


def entry(lane: Lane, cost: int, by: LoadedModel | None = None) -> Entry:
    future: asyncio.Future[object] = sentinel.never_awaited
    return Entry(Input(text="x"), by or MODEL, Role.QUERY, lane, future, cost)  # type: ignore[arg-type]


def prepare_all(queue: Queue) -> None:
    while (taken := queue.next_to_prepare(pictures=False)) is not None:
        queue.ready(taken, Prepared(Role.QUERY, None, None, taken.cost))


def drained(queue: Queue) -> Iterator[list[Entry]]:
    queue.drain()
    while batch := queue.next_batch():
        yield batch
        queue.answered(batch, forward_s=0.0)


def filled(items: Traffic, **settings: int) -> tuple[Queue, list[Entry]]:
    queue = Queue(QueueSettings(max_search_cost=10**6, max_bulk_cost=10**6, **settings))
    by = model(settings.get("max_batch_cost", 2_048))
    entries = [entry(lane, cost, by) for lane, cost, _, _ in items]
    for one in entries:
        assert queue.admit(one.lane, [one]) == 0
    prepare_all(queue)
    return queue, entries


@given(items=traffic, budget=st.integers(1, 30))
def test_budget_order_and_completeness(items: Traffic, budget: int) -> None:
    queue, entries = filled(items, max_batch_cost=budget)
    queue.discard([one for one, (_, _, leaves, _) in zip(entries, items, strict=True) if leaves])
    batches = list(drained(queue))
    for batch in batches:
        assert sum(one.cost for one in batch) <= budget or len(batch) == 1
        assert len({one.lane for one in batch}) == 1
    for lane in Lane:
        stayed = [one for one in entries if one.lane is lane and not one.gone]
        assert [one for batch in batches for one in batch if one.lane is lane] == stayed
        assert queue.held(lane) == 0


@given(items=traffic, budget=st.integers(1, 30))
def test_batches_that_fail_are_taken_apart_without_loss(items: Traffic, budget: int) -> None:
    queue, entries = filled(items, max_batch_cost=budget)
    bad = {id(one) for one, (_, _, _, fails) in zip(entries, items, strict=True) if fails}
    answered: list[Entry] = []
    for batch in drained(queue):
        if len(batch) > 1 and any(id(one) in bad for one in batch):
            queue.retry_alone(batch)
        else:
            answered += batch
    for lane in Lane:
        assert [one for one in answered if one.lane is lane] == [one for one in entries if one.lane is lane]
        assert queue.held(lane) == 0


@given(items=traffic, share=st.integers(1, 5))
def test_bulk_waits_for_a_bounded_number_of_searches(items: Traffic, share: int) -> None:
    queue, _ = filled(items, max_batch_cost=1, searches_per_bulk=share)
    order = [batch[0].lane for batch in drained(queue)]
    waiting_bulk = order.count(Lane.BULK)
    searches_in_a_row = 0
    for lane in order:
        if lane is Lane.BULK:
            waiting_bulk -= 1
            searches_in_a_row = 0
        elif waiting_bulk:
            searches_in_a_row += 1
            assert searches_in_a_row <= share


@given(
    calls=st.lists(st.tuples(st.sampled_from(Lane), st.lists(st.integers(1, 9), min_size=1, max_size=6)), max_size=30),
    bound=st.integers(1, 40),
)
def test_admission_is_all_or_nothing_and_bounded(calls: list[tuple[Lane, list[int]]], bound: int) -> None:
    queue = Queue(QueueSettings(max_search_cost=bound, max_bulk_cost=bound))
    for lane, costs in calls:
        before = queue.held(lane)
        over = queue.admit(lane, [entry(lane, cost) for cost in costs])
        fits = before + sum(costs) <= bound or before == 0
        assert (over == 0) == fits
        assert queue.held(lane) == before + (sum(costs) if fits else 0)


@pytest.mark.parametrize("end", [Queue.close, Queue.drain])
def test_nothing_is_admitted_after_the_end(end: Callable[[Queue], object]) -> None:
    """Asked under the lock: who looked before it and came after would wait for ever."""
    queue = Queue(QueueSettings())
    end(queue)
    with pytest.raises(DependencyUnavailable):
        queue.admit(Lane.SEARCH, [entry(Lane.SEARCH, 1)])
    assert queue.held(Lane.SEARCH) == 0


def test_the_estimate_gives_way_to_the_real_cost() -> None:
    queue = Queue(QueueSettings())
    queue.admit(Lane.SEARCH, [entry(Lane.SEARCH, 100)])
    taken = queue.next_to_prepare(pictures=False)
    assert taken is not None
    queue.ready(taken, Prepared(Role.QUERY, None, None, 7))
    assert queue.held(Lane.SEARCH) == 7


def test_searches_are_prepared_before_bulk() -> None:
    queue = Queue(QueueSettings())
    bulk, search = entry(Lane.BULK, 1), entry(Lane.SEARCH, 1)
    queue.admit(Lane.BULK, [bulk])
    queue.admit(Lane.SEARCH, [search])
    assert [
        queue.next_to_prepare(pictures=False),
        queue.next_to_prepare(pictures=False),
        queue.next_to_prepare(pictures=False),
    ] == [search, bulk, None]


def test_close_hands_over_whoever_has_no_answer() -> None:
    queue = Queue(QueueSettings(max_batch_cost=1))
    by = model(1)
    entries = [entry(Lane.SEARCH, 1, by), entry(Lane.SEARCH, 1, by), entry(Lane.BULK, 1, by)]
    for one in entries[:2]:
        queue.admit(one.lane, [one])
    prepare_all(queue)
    queue.admit(Lane.BULK, entries[2:])
    assert queue.next_batch() == entries[:1]
    assert set(queue.close()) == set(entries)
    assert queue.next_batch() == []


@pytest.mark.parametrize("lane", Lane)
def test_closed_takes_nothing_back(lane: Lane) -> None:
    """A batch that fails after the end is not put where nobody looks."""
    queue = Queue(QueueSettings())
    one = entry(lane, 1)
    queue.admit(lane, [one])
    prepare_all(queue)
    batch = queue.next_batch()
    assert queue.close() == [one]
    queue.retry_alone(batch)
    assert queue.close() == []
    assert queue.held(lane) == 0


def test_a_drained_queue_waits_for_batches_that_may_come_back() -> None:
    queue = Queue(QueueSettings())
    queue.admit(Lane.SEARCH, [entry(Lane.SEARCH, 1), entry(Lane.SEARCH, 1)])
    prepare_all(queue)
    queue.drain()
    batch = queue.next_batch()
    queue.retry_alone(batch)
    assert [queue.next_batch(), queue.next_batch()] == [[one] for one in batch]
    queue.answered(batch, forward_s=0.0)
    assert queue.next_batch() == []


LONG_S = 1000.0  # a forward whose callers are waited for longer than a test takes
SOON_S = 0.05


def come(queue: Queue, *entries: Entry, prepare: bool = True) -> None:
    for one in entries:
        assert queue.admit(one.lane, [one]) == 0
    if prepare:
        prepare_all(queue)


def after_a_batch(
    answered: int, waiting: int, lane: Lane = Lane.SEARCH, forward_s: float = LONG_S, max_wait_s: float = LONG_S
) -> Queue:
    """So many have just been answered after a forward of that long, and so many wait."""
    queue = Queue(QueueSettings(max_batch_cost=10, max_wait_s=max_wait_s))
    by = model(10)
    come(queue, *(entry(lane, 1, by) for _ in range(answered)))
    batch = queue.next_batch()
    come(queue, *(entry(lane, 1, by) for _ in range(waiting)))
    queue.answered(batch, forward_s)
    return queue


def test_a_batch_waits_for_callers_who_were_just_answered() -> None:
    """Who asks again goes with those who wait; without the wait two callers would never be in one batch."""
    queue = after_a_batch(answered=2, waiting=1)
    with ThreadPoolExecutor(1) as model:
        batch = model.submit(queue.next_batch)
        assert not wait([batch], SOON_S).done
        by = queue._ready.head(Lane.SEARCH).model
        come(queue, entry(Lane.SEARCH, 1, by))
        assert not wait([batch], SOON_S).done
        come(queue, entry(Lane.SEARCH, 1, by))
        assert len(batch.result(timeout=10)) == 3


@pytest.mark.parametrize("forward_s", [0.0, 0.1])
def test_it_waits_no_longer_than_a_part_of_a_forward(forward_s: float) -> None:
    assert len(after_a_batch(answered=2, waiting=1, forward_s=forward_s).next_batch()) == 1


def test_it_waits_no_longer_for_a_slow_model_than_callers_need() -> None:
    assert len(after_a_batch(answered=2, waiting=1, max_wait_s=0.01).next_batch()) == 1


def test_a_full_batch_waits_for_nobody() -> None:
    assert len(after_a_batch(answered=2, waiting=10).next_batch()) == 10


def test_nobody_waits_when_it_drains() -> None:
    queue = after_a_batch(answered=2, waiting=1)
    with ThreadPoolExecutor(1) as model:
        batch = model.submit(queue.next_batch)
        assert not wait([batch], SOON_S).done
        queue.drain()
        assert len(batch.result(timeout=10)) == 1


def test_a_search_does_not_wait_for_bulk_that_may_come() -> None:
    queue = after_a_batch(answered=2, waiting=1, lane=Lane.BULK)
    with ThreadPoolExecutor(1) as model:
        batch = model.submit(queue.next_batch)
        assert not wait([batch], SOON_S).done
        search = entry(Lane.SEARCH, 1)
        come(queue, search)
        assert batch.result(timeout=10) == [search]


def test_a_batch_waits_for_what_is_being_prepared() -> None:
    queue = after_a_batch(answered=1, waiting=0)
    first, second = entry(Lane.SEARCH, 1), entry(Lane.SEARCH, 1)
    come(queue, first)
    come(queue, second, prepare=False)
    with ThreadPoolExecutor(1) as model:
        batch = model.submit(queue.next_batch)
        assert not wait([batch], SOON_S).done
        prepare_all(queue)
        assert batch.result(timeout=10) == [first, second]


def test_a_batch_is_of_one_model_and_the_oldest_input_decides_which() -> None:
    queue, first, second = Queue(QueueSettings()), model(), model()
    order = [first, second, first, second, second]
    entries = [entry(Lane.SEARCH, 1, by) for by in order]
    come(queue, *entries)
    assert queue.next_batch() == [entries[0], entries[2]]
    late = entry(Lane.SEARCH, 1, first)
    come(queue, late)
    assert queue.next_batch() == [entries[1], entries[3], entries[4]]
    assert queue.next_batch() == [late]


def test_the_budget_of_a_batch_is_that_of_its_model() -> None:
    queue, small, large = Queue(QueueSettings()), model(2), model(4)
    come(queue, *(entry(Lane.SEARCH, 1, by) for by in [small] * 4 + [large] * 4))
    assert [len(batch) for batch in drained(queue)] == [2, 2, 4]


def test_bounds_and_turns_hold_over_all_models() -> None:
    queue, first, second = Queue(QueueSettings(max_search_cost=2, searches_per_bulk=1)), model(1), model(1)
    assert queue.admit(Lane.SEARCH, [entry(Lane.SEARCH, 1, first), entry(Lane.SEARCH, 1, second)]) == 0
    assert queue.admit(Lane.SEARCH, [entry(Lane.SEARCH, 1, second)]) > 0
    assert queue.admit(Lane.BULK, [entry(Lane.BULK, 1, second)]) == 0
    prepare_all(queue)
    assert [batch[0].lane for batch in drained(queue)] == [Lane.SEARCH, Lane.BULK, Lane.SEARCH]


def test_a_failed_batch_goes_before_younger_inputs_of_other_models() -> None:
    queue, first, second = Queue(QueueSettings()), model(), model()
    failing = [entry(Lane.SEARCH, 1, first), entry(Lane.SEARCH, 1, first)]
    come(queue, *failing)
    batch = queue.next_batch()
    come(queue, entry(Lane.SEARCH, 1, second))
    queue.retry_alone(batch)
    assert [queue.next_batch(), queue.next_batch()] == [[failing[0]], [failing[1]]]
