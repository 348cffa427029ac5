"""The batcher's must-pass list (STYLE.md), over a model whose forwards the test holds. No sleeping."""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_runtime import D, FakeRuntime, embed

from indexer.encoding.encoder import Lane
from model.errors import DependencyUnavailable, EncodeFailed, InvalidInput, Overloaded, RetrievalError
from model.types import Embedding, Encoded, Input, ModelInfo, Role
from service.encoder.batcher import Batcher
from service.encoder.budget import Budget

Make = Callable[..., Awaitable[Batcher]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


def send(batcher: Batcher, *texts: str, lane: Lane = Lane.SEARCH) -> asyncio.Task[list[Embedding | RetrievalError]]:
    return asyncio.create_task(batcher.encode([Input(text=text) for text in texts], role=Role.QUERY, lane=lane))


async def one(batcher: Batcher, text: str = "good", lane: Lane = Lane.SEARCH) -> Embedding | RetrievalError:
    return (await send(batcher, text, lane=lane))[0]


async def hold(batcher: Batcher, runtime: Any) -> asyncio.Task[list[Embedding | RetrievalError]]:
    """The model busy with one input until the gate opens."""
    runtime.gate.clear()
    task = send(batcher, "plug")
    await runtime.busy_with("plug")
    return task


async def test_answers_come_in_the_order_asked(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher(prepare_threads=4)
    texts = [f"text {number}" for number in range(50)]
    results = await send(batcher, *texts)
    for text, result in zip(texts, results, strict=True):
        single = await one(batcher, text)
        assert isinstance(result, Embedding)
        assert isinstance(single, Embedding)
        assert result.vector == pytest.approx(single.vector, abs=1e-6)  # promise 7: batched = single


async def test_nothing_in_nothing_out(make_batcher: Make) -> None:
    assert await send(await make_batcher()) == []


async def test_a_raising_forward_fails_its_batch_only(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher()

    def fail(texts: list[str]) -> None:
        if "bad" in texts:
            raise RuntimeError("the text was SECRET")

    runtime.on_forward = fail
    failed = await one(batcher, "bad")
    assert isinstance(failed, EncodeFailed)
    assert "RuntimeError" in failed.detail
    assert "SECRET" not in failed.detail
    assert isinstance(await one(batcher, "good"), Embedding)
    assert batcher.alive


async def test_a_device_that_computes_nothing_any_more_ends_it(make_batcher: Make, runtime: Any) -> None:
    """Promise 10: no input is to blame, so each may be tried elsewhere, and none is tried here again."""
    batcher = await make_batcher()

    def fail(_texts: list[str]) -> None:
        runtime.broken = True
        raise RuntimeError("CUDA error: device-side assert triggered")

    runtime.on_result = fail
    with pytest.raises(DependencyUnavailable, match="device has failed"):
        await send(batcher, "a", "b")
    assert len(runtime.batches) <= 2  # of one input each: what was launched before it failed
    assert not batcher.alive
    with pytest.raises(DependencyUnavailable, match="not running"):
        await one(batcher)


async def test_a_poison_input_is_found_out(make_batcher: Make, runtime: Any, wait_until: Until) -> None:
    """The batch fails once, then each input runs alone; only the poison one fails."""
    batcher = await make_batcher(prepare_threads=1)
    plug = await hold(batcher, runtime)
    task = send(batcher, "a", "poison", "b", "c")
    await wait_until(lambda: len(runtime.prepared) == 5)
    runtime.on_forward = lambda texts: 1 / 0 if "poison" in texts else None
    runtime.gate.set()
    results = await task
    assert [type(result) for result in results] != [EncodeFailed] * 4
    assert isinstance(results[1], EncodeFailed)
    assert all(isinstance(results[position], Embedding) for position in (0, 2, 3))
    together = next(batch for batch in runtime.batches if "poison" in batch)
    assert len(together) > 1
    assert ["poison"] in runtime.batches
    await plug


async def test_the_device_has_its_next_batch_before_it_is_done_with_the_last(
    make_batcher: Make, runtime: Any, wait_until: Until
) -> None:
    """And not more than that: what comes later can still go before."""
    done = threading.Event()
    runtime.on_result = lambda _texts: done.wait(10)
    batcher = await make_batcher(prepare_threads=1)
    tasks = []
    for text in ("first", "second", "third"):
        tasks.append(send(batcher, text))
        await wait_until(lambda text=text: text in runtime.prepared)  # type: ignore[misc]
        await wait_until(lambda: len(runtime.batches) == min(2, len(tasks)))
    assert runtime.batches == [["first"], ["second"]]
    done.set()
    await asyncio.gather(*tasks)
    assert runtime.batches == [["first"], ["second"], ["third"]]


async def test_a_batch_is_answered_when_it_is_done_whatever_goes_on_beside(
    make_batcher: Make, runtime: Any, wait_until: Until
) -> None:
    done = threading.Event()
    runtime.on_result = lambda texts: done.wait(10) if "slow" in texts else None
    batcher = await make_batcher()
    slow = send(batcher, "slow")
    await wait_until(lambda: ["slow"] in runtime.batches)
    assert isinstance(await one(batcher, "fast"), Embedding)
    assert not slow.done()
    done.set()
    assert isinstance((await slow)[0], Embedding)


async def test_a_result_that_raises_is_taken_apart_even_while_stopping(
    make_batcher: Make, runtime: Any, wait_until: Until
) -> None:
    batcher = await make_batcher(prepare_threads=1)
    plug = await hold(batcher, runtime)
    task = send(batcher, "a", "poison", "b")
    await wait_until(lambda: batcher._queue._ready.reaches(Lane.SEARCH, 8))

    def fail(texts: list[str]) -> None:
        if "poison" in texts:
            raise RuntimeError

    runtime.on_result = fail
    stopping = asyncio.create_task(batcher.stop(grace_s=10))
    await asyncio.sleep(0)
    runtime.gate.set()
    assert [type(result) for result in await task] == [Embedding, EncodeFailed, Embedding]
    await asyncio.gather(plug, stopping)


async def test_while_a_failed_batch_is_taken_apart_searches_still_go_first(
    make_batcher: Make, runtime: Any, wait_until: Until
) -> None:
    batcher = await make_batcher(prepare_threads=1)
    plug = await hold(batcher, runtime)
    bulk = send(batcher, "a", "poison", "b", lane=Lane.BULK)
    await wait_until(lambda: batcher._queue._ready.reaches(Lane.BULK, 8))
    search: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    def fail(texts: list[str]) -> None:
        if len(texts) > 1:
            loop.call_soon_threadsafe(lambda: search.append(send(batcher, "search")))
            asyncio.run_coroutine_threadsafe(wait_until(lambda: "search" in runtime.prepared), loop).result(10)
            asyncio.run_coroutine_threadsafe(
                wait_until(lambda: batcher._queue._ready.reaches(Lane.SEARCH, 1)), loop
            ).result(10)
        if "poison" in texts:
            raise RuntimeError

    runtime.on_forward = fail
    runtime.gate.set()
    await bulk
    assert runtime.batches[1:] == [["a", "poison", "b"], ["search"], ["a"], ["poison"], ["b"]]
    await asyncio.gather(plug, *search)


async def test_a_bad_input_fails_only_itself(make_batcher: Make) -> None:
    batcher = await make_batcher()
    results = await send(batcher, "good", " ", "fine")
    assert [type(result).__name__ for result in results] == ["Embedding", "InvalidInput", "Embedding"]


class Panic(BaseException):
    """As pyo3 raises it for a panic in Rust: no Exception."""


@pytest.mark.parametrize("error", [MemoryError, Panic])
async def test_prepare_that_raises_anything_is_an_answer(
    make_batcher: Make, runtime: Any, error: type[BaseException]
) -> None:
    batcher = await make_batcher()

    def explode(item: Input) -> None:
        if item.text == "bad":
            raise error

    runtime.on_prepare = explode
    results = await send(batcher, "bad", "good")
    assert isinstance(results[0], EncodeFailed)
    assert isinstance(results[1], Embedding)


@pytest.mark.parametrize("row", [[np.nan] * 64, [np.inf] + [0.0] * 63, [0.0] * 64, [3e38] * 64])
async def test_unusable_vectors_never_leave(
    make_batcher: Make, runtime: Any, row: list[float], wait_until: Until
) -> None:
    """Promise 12, and only for the input concerned."""
    batcher = await make_batcher(prepare_threads=1)
    plug = await hold(batcher, runtime)
    task = send(batcher, "bad", "good")
    await wait_until(lambda: batcher._queue._ready.reaches(Lane.SEARCH, 7))
    good = np.eye(64, dtype=np.float32)[0]
    runtime.on_forward = lambda texts: np.array([row if text == "bad" else good for text in texts], np.float32)
    runtime.gate.set()
    bad, fine = await task
    assert isinstance(fine, Embedding)
    assert isinstance(bad, EncodeFailed)
    await plug


GOOD = np.eye(64, dtype=np.float32)[:1]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Encoded(np.ones((1, 3), np.float32)), "(1, 3)"),
        (Encoded(GOOD[0]), "(64,)"),
        (Encoded(np.concatenate([GOOD, GOOD])), "(2, 64)"),
        (Encoded(GOOD, latents=np.ones((1, 1, 3), np.float32)), "(1, 1, 3)"),
        (Encoded(GOOD, latents=GOOD), "(1, 64)"),
        (Encoded(GOOD, shares=np.ones((1, 2), np.float32)), "(1, 2)"),
        (Encoded(GOOD, shares=np.ones((0, 3, 2), np.float32)), "(0, 3, 2)"),
        (Encoded(GOOD, shares=np.ones((1, 3, 3), np.float32)), "(1, 3, 3)"),
        (Encoded(np.full((1, 64), "x")), "ValueError"),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_result_is_an_answer(make_batcher: Make, runtime: Any, wrong: Encoded, says: str) -> None:
    """Promise 1: whatever a model gives, its caller hears of it, and so does the next."""
    batcher = await make_batcher()
    runtime.on_result = lambda texts: wrong if texts == ["bad"] else None
    failed = await asyncio.wait_for(one(batcher, "bad"), 5)
    assert isinstance(failed, EncodeFailed)
    assert says in failed.detail
    assert isinstance(await one(batcher), Embedding)
    assert batcher.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_results_thread_that_dies_over_a_batch_has_answered_it(
    make_batcher: Make, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = await make_batcher()

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(batcher, "_observe", die)
    assert isinstance(await asyncio.wait_for(one(batcher), 5), Embedding)
    with pytest.raises(DependencyUnavailable):
        await asyncio.wait_for(one(batcher), 5)


async def test_a_full_queue_refuses_at_once(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher(max_search_cost=10)
    plug = await hold(batcher, runtime)
    waiting = send(batcher, "12345678")
    await asyncio.sleep(0)
    for call in (["123"], ["1", "1", "1"]):  # one rule for a single input and a batch: cost
        with pytest.raises(
            Overloaded, match=r"the search queue .* is full: \d+ cost units are queued, the limit is \d+"
        ) as refused:
            await asyncio.wait_for(send(batcher, *call), 1)
        assert refused.value.retry_after_s > 0
    fits = send(batcher, "12")
    runtime.gate.set()
    await asyncio.gather(plug, waiting, fits)
    assert isinstance(await one(batcher, "123"), Embedding)


async def test_each_lane_has_its_own_bound(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher(max_search_cost=10, max_bulk_cost=10)
    plug = await hold(batcher, runtime)
    bulk = send(batcher, "1234567890", lane=Lane.BULK)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await send(batcher, "1", lane=Lane.BULK)
    search = send(batcher, "1234567890")
    runtime.gate.set()
    await asyncio.gather(plug, bulk, search)


async def test_a_call_over_the_whole_bound_is_taken_when_its_lane_is_empty(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher(max_bulk_cost=10)
    results = await send(batcher, *["12345678"] * 5, lane=Lane.BULK)
    assert all(isinstance(result, Embedding) for result in results)


async def test_retry_after_comes_from_queue_and_rate(make_batcher: Make, runtime: Any) -> None:
    """40 of cost took 4 s; what has to go before 20 more fit takes 2 s."""
    now = [0.0]
    seconds = {"x" * 40: 4.0, "x": 3600.0}

    def slow(texts: list[str]) -> None:
        now[0] += seconds.get(texts[0], 0.0)

    runtime.on_forward = slow
    batcher = await make_batcher(max_search_cost=100, max_batch_cost=100, clock=lambda: now[0])
    await one(batcher, "x")  # a lone short one: an hour for it does not count
    await one(batcher, "x" * 40)
    plug = await hold(batcher, runtime)
    waiting = send(batcher, "x" * 100)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await send(batcher, "x" * 20)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    runtime.gate.set()
    await asyncio.gather(plug, waiting)


async def test_a_slow_model_is_full_sooner(make_batcher: Make, runtime: Any) -> None:
    """40 of cost took 4 s, so that 20 is all that goes within two seconds, whatever the fixed bound allows."""
    now = [0.0]

    def slow(texts: list[str]) -> None:
        now[0] += 4.0 if texts == ["x" * 40] else 0.0

    runtime.on_forward = slow
    batcher = await make_batcher(max_search_cost=10_000, max_batch_cost=8, max_queue_s=2.0, clock=lambda: now[0])
    await one(batcher, "x" * 40)
    plug = await hold(batcher, runtime)
    waiting = send(batcher, "x" * 15)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await send(batcher, "x" * 6)
    fits = send(batcher, "x" * 5)
    runtime.gate.set()
    await asyncio.gather(plug, waiting, fits)


async def test_a_cancelled_callers_input_is_not_encoded(make_batcher: Make, runtime: Any, wait_until: Until) -> None:
    batcher = await make_batcher(prepare_threads=1)
    plug = await hold(batcher, runtime)
    gone = send(batcher, "gone one", "gone two")
    stays = send(batcher, "stays")
    await wait_until(lambda: len(runtime.prepared) == 4)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert batcher._queue.held(Lane.SEARCH) == len("stays")
    runtime.gate.set()
    await asyncio.gather(plug, stays)
    assert runtime.batches == [["plug"], ["stays"]]


async def test_a_cancelled_callers_input_is_not_even_prepared(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher(start=False)  # nothing is prepared before the task below runs
    batcher.start()
    runtime.gate.clear()
    gone = send(batcher, *[f"gone {number}" for number in range(100)])
    runtime.on_prepare = lambda _item: runtime.gate.wait(10)
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    runtime.gate.set()
    await one(batcher, "good")
    assert len([text for text in runtime.prepared if text.startswith("gone")]) <= 2  # one per thread had begun
    assert runtime.batches == [["good"]]
    await batcher.stop()


async def test_searches_go_before_bulk_and_bulk_never_starves(
    make_batcher: Make, runtime: Any, wait_until: Until
) -> None:
    """Promise 6, with one input a batch and three searches for each waiting bulk."""
    batcher = await make_batcher(max_batch_cost=1, searches_per_bulk=3, prepare_threads=1)
    plug = await hold(batcher, runtime)
    bulk = send(batcher, "b1", "b2", "b3", lane=Lane.BULK)
    search = send(batcher, *[f"s{number}" for number in range(8)])
    await wait_until(
        lambda: batcher._queue._ready.reaches(Lane.SEARCH, 16) and batcher._queue._ready.reaches(Lane.BULK, 6)
    )
    runtime.gate.set()
    await asyncio.gather(plug, bulk, search)
    order = " ".join(batch[0] for batch in runtime.batches[1:])
    assert order == "s0 s1 s2 b1 s3 s4 s5 b2 s6 s7 b3"


async def test_a_batch_takes_what_is_there(make_batcher: Make, runtime: Any, wait_until: Until) -> None:
    """No fixed delay: one input goes alone on an idle model, and what came meanwhile goes together."""
    batcher = await make_batcher(prepare_threads=1, max_batch_cost=6)
    plug = await hold(batcher, runtime)
    tasks = [send(batcher, text) for text in ("aa", "bb", "cc", "dd")]
    await wait_until(lambda: batcher._queue._ready.reaches(Lane.SEARCH, 8))
    runtime.gate.set()
    await asyncio.gather(plug, *tasks)
    assert runtime.batches == [["plug"], ["aa", "bb", "cc"], ["dd"]]


async def test_the_budget_of_a_slow_start_is_corrected_by_the_batches_that_follow(
    make_batcher: Make, runtime: Any
) -> None:
    """The start found 512; a forward takes as long whatever its cost, so each doubling is twice as fast."""
    now = [0.0]
    budget = Budget(512, clock=lambda: now[0])
    batcher = await make_batcher(budget=budget, prepare_threads=1, clock=lambda: now[0], wait_share=0.0)

    def forward(_texts: list[str]) -> None:
        now[0] += 0.5

    runtime.on_result = forward
    for _ in range(30):
        await send(batcher, *["t" * 64] * 64, lane=Lane.BULK)
    assert budget.cost >= 1_024
    assert max(sum(costs) for costs in runtime.costs) >= 2_048


async def test_stop_answers_what_was_admitted(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher()
    plug = await hold(batcher, runtime)
    waiting = send(batcher, *[f"text {number}" for number in range(20)])
    await asyncio.sleep(0)
    stopping = asyncio.create_task(batcher.stop(grace_s=10))
    await asyncio.sleep(0)
    with pytest.raises(DependencyUnavailable):
        await one(batcher, "too late")
    runtime.gate.set()
    await stopping
    assert all(isinstance(result, Embedding) for result in [*await plug, *await waiting])
    assert not batcher.alive


async def test_stop_leaves_no_future_pending(make_batcher: Make, runtime: Any) -> None:
    """Not even those of a forward that never ends."""
    batcher = await make_batcher()
    plug = await hold(batcher, runtime)
    waiting = [send(batcher, "search"), send(batcher, "bulk", lane=Lane.BULK)]
    await asyncio.sleep(0)
    await batcher.stop(grace_s=0.01)
    for task in (plug, *waiting):
        with pytest.raises(DependencyUnavailable):
            await asyncio.wait_for(task, 1)
    runtime.gate.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_answers_everybody_and_is_seen(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher()
    plug = await hold(batcher, runtime)
    waiting = [send(batcher, "search"), send(batcher, "bulk", lane=Lane.BULK)]
    await asyncio.sleep(0)

    def die(_texts: list[str]) -> None:
        raise SystemExit  # ends a thread silently, as nothing that is an Exception can

    runtime.on_forward = die
    runtime.gate.set()
    for task in (plug, *waiting):
        with pytest.raises(DependencyUnavailable):
            await asyncio.wait_for(task, 5)
    assert not batcher.alive
    with pytest.raises(DependencyUnavailable, match="not running"):
        await one(batcher)
    with pytest.raises(DependencyUnavailable, match="dead"):
        await batcher.check(max_age_s=1e9)


async def test_a_stuck_forward_is_seen(make_batcher: Make, runtime: Any) -> None:
    now = [0.0]
    batcher = await make_batcher(stuck_after_s=60, clock=lambda: now[0])
    plug = await hold(batcher, runtime)
    now[0] = 59.0
    assert batcher.alive
    now[0] = 61.0
    assert not batcher.alive
    with pytest.raises(DependencyUnavailable):
        await one(batcher)
    runtime.gate.set()
    await plug
    assert batcher.alive


async def test_a_stuck_decoder_is_seen(make_batcher: Make, runtime: Any) -> None:
    """It holds a thread of the pool for ever, and when it holds all of them nothing is encoded."""
    now = [0.0]
    batcher = await make_batcher(stuck_after_s=60, clock=lambda: now[0])
    begun, gate = threading.Event(), threading.Event()

    def hang(_item: Input) -> None:
        begun.set()
        gate.wait(10)

    runtime.on_prepare = hang
    task = send(batcher, "an image that never ends")
    await asyncio.to_thread(begun.wait, 10)
    now[0] = 59.0
    assert batcher.alive
    now[0] = 61.0
    assert not batcher.alive
    gate.set()
    await task
    assert batcher.alive


async def test_readiness_is_a_real_forward(make_batcher: Make, runtime: Any) -> None:
    """Promise 10: a recent success counts, an old one is renewed, a model that fails is not ready."""
    now = [0.0]
    batcher = await make_batcher(clock=lambda: now[0])
    await batcher.check(max_age_s=30)
    assert len(runtime.batches) == 1
    now[0] = 29.0
    await batcher.check(max_age_s=30)
    assert len(runtime.batches) == 1
    now[0] = 60.0
    await batcher.check(max_age_s=30)
    assert len(runtime.batches) == 2
    now[0] = 120.0
    runtime.on_forward = lambda _texts: 1 / 0
    with pytest.raises(EncodeFailed):
        await batcher.check(max_age_s=30)


async def test_bad_inputs_do_not_make_it_unready(make_batcher: Make) -> None:
    batcher = await make_batcher()
    assert isinstance(await one(batcher, " "), InvalidInput)
    await batcher.check(max_age_s=0)


async def test_timing_and_metrics(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher()
    result: Any = await one(batcher, "good")
    assert min(result.timing.decode_s, result.timing.queue_s, result.timing.encode_s) >= 0
    value = batcher._metrics.registry.get_sample_value
    assert value("ret2_encoded_inputs_total", {"model": "fake", "lane": "search", "outcome": "ok"}) == 1
    assert value("ret2_batch_cost_sum", {"model": "fake", "lane": "search"}) == 4
    assert value("ret2_queue_cost", {"lane": "search"}) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no niceness of its own")
async def test_the_model_lets_others_go_first(make_batcher: Make) -> None:
    batcher = await make_batcher()
    await one(batcher)
    (model,) = (thread for thread in batcher._threads if thread.name == "model")
    assert os.getpriority(os.PRIO_PROCESS, model.native_id or 0) > os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_text_does_not_wait_for_pictures_to_be_decoded(
    make_batcher: Make, runtime: Any, make_image: Callable[..., bytes]
) -> None:
    """Pictures that take long, as many as there are threads, leave searches by text alone as fast as they were."""
    decoding = threading.Event()
    runtime.on_prepare = lambda item: None if item.image is None else decoding.wait(10) and None
    batcher = await make_batcher(prepare_threads=2)
    pictures = [
        asyncio.create_task(batcher.encode([Input(image=make_image())], role=Role.QUERY, lane=Lane.SEARCH))
        for _ in range(4)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        (answer,) = await batcher.encode([Input("words")], role=Role.QUERY, lane=Lane.SEARCH)
    assert not isinstance(answer, RetrievalError)
    assert not any(picture.done() for picture in pictures)
    decoding.set()
    await asyncio.gather(*pictures)


class Second(FakeRuntime):
    """Another model on the same device: its vectors are the opposite ones."""

    info = ModelInfo("second", "second-fingerprint", D, 1_000, 16)

    def __init__(self, first: FakeRuntime) -> None:
        super().__init__()
        self.gate = first.gate
        self.on_forward = lambda texts: -np.stack([embed(text) for text in texts])


async def test_two_models_share_the_queue_and_no_batch(make_batcher: Make, runtime: Any, wait_until: Any) -> None:
    batcher = await make_batcher()
    second = Second(runtime)
    model = batcher.add(second, Budget(2_048, fixed=True))
    runtime.gate.clear()
    busy = asyncio.create_task(one(batcher, "busy"))
    await runtime.busy_with("busy")
    calls = [
        asyncio.create_task(batcher.encode([Input(text)], role=Role.QUERY, lane=Lane.SEARCH, model=by))
        for text, by in (("red", None), ("red", model), ("blue", None), ("blue", model))
    ]
    await wait_until(lambda: batcher._queue.held(Lane.SEARCH) == 14 and batcher._queue._ready.count(Lane.SEARCH) == 4)
    runtime.gate.set()
    answers = [(await call)[0] for call in calls]
    await busy
    assert [answer.fingerprint for answer in answers] == ["fake-fingerprint", "second-fingerprint"] * 2
    for ours, theirs in (answers[:2], answers[2:]):
        assert np.allclose(ours.vector, -theirs.vector)
    assert all(set(batch) <= {"red", "blue", "busy"} for batch in (*runtime.batches, *second.batches))
    value = batcher._metrics.registry.get_sample_value
    assert value("ret2_encoded_inputs_total", {"model": "second", "lane": "search", "outcome": "ok"}) == 2


async def test_a_model_that_is_poisoned_harms_no_other(make_batcher: Make, runtime: Any) -> None:
    batcher = await make_batcher()
    second = Second(runtime)
    second.on_forward = lambda texts: np.full((len(texts), D), np.nan, np.float32)
    model = batcher.add(second, Budget(2_048, fixed=True))
    (failed,) = await batcher.encode([Input("red")], role=Role.QUERY, lane=Lane.SEARCH, model=model)
    assert isinstance(failed, EncodeFailed)
    assert isinstance(await one(batcher, "red"), Embedding)
    await batcher.check(max_age_s=30)
    with pytest.raises(EncodeFailed):
        await batcher.check(30, model)
    assert batcher.alive


async def test_a_model_of_texts_refuses_images(make_batcher: Make, runtime: Any, make_image: Any) -> None:
    runtime.info = replace(FakeRuntime.info, modalities=("text",))
    batcher = await make_batcher()
    (refused,) = await batcher.encode([Input("red", make_image())], role=Role.QUERY, lane=Lane.SEARCH)
    assert isinstance(refused, InvalidInput)
    assert "model fake embeds text alone, and this input has image" in refused.detail
    assert isinstance(await one(batcher, "red"), Embedding)
