"""Dynamic batching: inputs prepared in a thread pool, batches formed from the queue, one thread that owns the model.

    encode()  ── admit ──►  queue: to prepare  ──►  pool: runtime.prepare  ──►  queue: ready  ──►  model thread: runtime.forward
    (loop)    over: 429     searches first          decode, tokenise            searches first     a batch up to the cost budget

The design of text-embeddings-inference (core/src/queue.rs): walk the queue, drop who has gone, stop at the budget; a batch
that raises harms itself and the loop goes on; health runs a real forward. What differs: nothing is ever admitted past the
bound, and a batch that raised is run again one by one, so that only the poison input fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import structlog

from indexer.encoder import Lane
from model.errors import DependencyUnavailable, EncodeFailed, Overloaded, RetrievalError
from model.inputs import Float32, Input, ModelInfo, Prepared, Role
from service.encoder.lanes import Entry, Result, TimedEmbedding, Timing
from service.encoder.queue import Queue, QueueSettings
from service.telemetry import Metrics

log = structlog.get_logger(__name__)
T = TypeVar("T")

_RATE_WEIGHT = 0.2  # of the newest batch in the moving average of cost per second
_NORM_TOLERANCE = 0.01  # an embedding has unit length; bfloat16 is off by up to 0.004


class Runtime(Protocol):
    """What the batcher needs of a model. `forward` is called by one thread only, the rest by several at once."""

    @property
    def info(self) -> ModelInfo: ...

    def estimate(self, item: Input) -> int:
        """At least what `prepare` will say the input costs, without looking into it; at least 1."""
        ...

    def prepare(self, item: Input, role: Role) -> Prepared:
        """Raises `InvalidInput` or `TooLarge`."""
        ...

    def forward(self, batch: Sequence[Prepared]) -> Float32:
        """(B, D)"""
        ...


class Batcher:
    """An `Encoder` in this process. Bound to the event loop it was started on; whoever starts it stops it."""

    def __init__(
        self,
        runtime: Runtime,
        settings: QueueSettings,
        metrics: Metrics,
        *,
        prepare_threads: int = 2,
        stuck_after_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._queue = Queue(settings, clock)
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix="prepare")
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forward_since: float | None = None
        self._last_success: float | None = None
        self._cost_per_s: float | None = None
        metrics.watch_queue(self._queue.held)

    # --- life

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Answers what was admitted, for at most `grace_s`; whoever is left gets `DependencyUnavailable`."""
        self._queue.drain()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, grace_s)
        _settle([(entry, _stopped()) for entry in self._queue.close()])
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """The model thread runs and its forward, if any, is not stuck."""
        since = self._forward_since
        stuck = since is not None and self._clock() - since >= self._stuck_after_s
        return self._thread.is_alive() and not self._queue.closed and not stuck

    async def check(self, max_age_s: float) -> None:
        """A forward has worked within `max_age_s`, or works now. Raises what kept it from working (promise 10)."""
        if not self.alive:
            raise DependencyUnavailable("the encoder's model thread is dead or stuck")
        if self._last_success is None or self._clock() - self._last_success > max_age_s:
            (result,) = await self.encode([Input(text="ready?")], role=Role.QUERY, lane=Lane.SEARCH)
            if isinstance(result, RetrievalError):
                raise result

    # --- the Encoder seam

    async def info(self) -> ModelInfo:
        return self._runtime.info

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Result]:
        loop = asyncio.get_running_loop()
        entries = [Entry(item, role, lane, loop.create_future(), self._runtime.estimate(item)) for item in inputs]
        self._admit(lane, entries)
        try:
            for _ in entries:
                self._pool.submit(self._prepare_next)
            results = await asyncio.gather(*(entry.future for entry in entries))
        finally:
            self._queue.discard(entries)
        for result in results:
            if isinstance(result, DependencyUnavailable):
                raise result
        return results

    def _admit(self, lane: Lane, entries: Sequence[Entry]) -> None:
        if self._queue.refuses or not self.alive:
            raise DependencyUnavailable("the encoder is not running")
        if over := self._queue.admit(lane, entries):
            self._metrics.overloaded.labels(lane).inc()
            raise Overloaded(
                f"the {lane} queue of the encoder is full: {self._queue.held(lane)} of its cost is waiting and this call would "
                f"put it {over} over its bound",
                retry_after_s=over / self._cost_per_s if self._cost_per_s else 1.0,
            )

    # --- the pool

    def _prepare_next(self) -> None:
        entry = self._queue.next_to_prepare()
        if entry is None:
            return
        began = self._clock()
        prepared: Prepared | RetrievalError = EncodeFailed("this input could not be prepared")
        try:
            prepared = _attempt(lambda: self._runtime.prepare(entry.item, entry.role), "prepare")
        finally:
            # Also when it was no Exception: a panic in the tokeniser's Rust code is not one, and the pool would swallow it.
            entry.decode_s = self._clock() - began
            self._metrics.prepare_seconds.observe(entry.decode_s)
            if isinstance(prepared, RetrievalError):
                self._deliver([(entry, prepared)])
            else:
                self._queue.ready(entry, prepared)

    # --- the model thread

    def _run(self) -> None:
        try:
            while batch := self._queue.next_batch():
                self._answer(batch)
        finally:
            # Also when something that is no Exception ends the thread: nobody may wait for a thread that is gone.
            if not self._queue.refuses:
                log.critical("model thread died")
            self._deliver([(entry, _stopped()) for entry in self._queue.close()])

    def _answer(self, batch: list[Entry]) -> None:
        prepared = [entry.prepared for entry in batch if entry.prepared is not None]
        began = self._forward_since = self._clock()
        outcome = _attempt(lambda: self._forward(prepared), "forward")
        self._forward_since = None
        if isinstance(outcome, RetrievalError) and len(batch) > 1:
            self._queue.retry_alone(batch)
            return
        self._observe(batch, self._clock() - began)
        self._deliver(list(zip(batch, self._results(batch, outcome, began), strict=True)))

    def _forward(self, prepared: list[Prepared]) -> Float32:
        vectors = self._runtime.forward(prepared)
        wanted = (len(prepared), self._runtime.info.dimensions)
        if vectors.shape != wanted:
            raise EncodeFailed(f"the model answered with shape {vectors.shape}, wanted {wanted}")
        return vectors

    def _results(self, batch: list[Entry], outcome: Float32 | RetrievalError, began: float) -> list[Result]:
        if isinstance(outcome, RetrievalError):
            return [outcome] * len(batch)
        encode_s = self._clock() - began
        norms = np.linalg.norm(outcome.astype(np.float64), axis=1)  # (B,); in float32 a large row would overflow
        results: list[Result] = []
        for entry, vector, norm in zip(batch, outcome, norms, strict=True):
            if not abs(norm - 1) <= _NORM_TOLERANCE:  # NaN is neither above nor below
                results.append(EncodeFailed(f"the model gave an embedding of length {norm:g}, which cannot be used"))
                continue
            self._last_success = self._clock()
            timing = Timing(entry.decode_s, began - entry.ready_at, encode_s)
            dropped = entry.prepared.dropped_tokens if entry.prepared else 0
            results.append(TimedEmbedding(vector.astype(np.float32, copy=True), dropped, entry.cost, timing))
        return results

    def _observe(self, batch: list[Entry], forward_s: float) -> None:
        cost = sum(entry.cost for entry in batch)
        self._metrics.batch(batch[0].lane, len(batch), cost, forward_s)
        rate = cost / max(forward_s, 1e-6)
        self._cost_per_s = (
            rate if self._cost_per_s is None else (1 - _RATE_WEIGHT) * self._cost_per_s + _RATE_WEIGHT * rate
        )

    def _deliver(self, answers: list[tuple[Entry, Result]]) -> None:
        """From any thread to the waiting tasks."""
        for entry, result in answers:
            self._metrics.encoded.labels(entry.lane, result.code if isinstance(result, RetrievalError) else "ok").inc()
        if self._loop is not None:
            # A closed loop has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: list[tuple[Entry, Result]]) -> None:
    for entry, result in answers:
        if not entry.future.done():
            entry.future.set_result(result)


def _stopped() -> DependencyUnavailable:
    return DependencyUnavailable("the encoder stopped before this input had its turn")


def _attempt(call: Callable[[], T], stage: str) -> T | RetrievalError:
    """The batcher's catch-all: whatever a model raises becomes an answer, and the threads go on (promise 1)."""
    try:
        return call()
    except RetrievalError as error:
        return error
    except Exception as error:
        log.exception("encoder stage raised", stage=stage)
        # The message of a foreign exception may hold anything, the input included; its type says enough to the caller.
        return EncodeFailed(f"the model raised {type(error).__name__} on this input")
