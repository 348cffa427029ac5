"""Dynamic batching: inputs prepared in a thread pool, batches formed from the queue, one thread that owns the model.

    encode()  ── admit ──►  queue: to prepare  ──►  pool: runtime.prepare  ──►  queue: ready  ──►  model thread: runtime.launch
    (loop)    over: 429     searches first          decode, tokenise            searches first     a batch up to the cost budget
       ▲                                                                                                     │
       └────────────────────── results thread: waits for the device, checks the vectors, answers ◄───────────┘

A device that computes by itself has the next batch before it is done with the last: `Runtime.in_flight` launched ones at most. A CPU
computes as many side by side, each in a thread, and each is answered when it is done.

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
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Protocol, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from indexer.encoding.encoder import Lane
from indexer.observability import tracing
from model.cpu.priority import yield_to_others
from model.errors import DependencyUnavailable, EncodeFailed, Overloaded, RetrievalError
from model.types import Embedding, Encoded, Float32, Input, ModelInfo, Prepared, Role, Shares, Timing
from service.encoder.lanes import Entry, Result
from service.encoder.queue import Queue
from service.observability.metrics import Metrics
from service.settings import QueueSettings

log = structlog.get_logger(__name__)
T = TypeVar("T")
Float64 = NDArray[np.float64]

_RATE_HALF_LIFE_S = 10.0  # of busy time, after which a batch counts half
_RATE_MIN_FILL = (
    0.25  # of the budget: a lone short text is slow for its cost, and says nothing of what a full queue takes
)
_NORM_TOLERANCE = 0.01  # an embedding has unit length; bfloat16 is off by up to 0.004


class Runtime(Protocol):
    """What the batcher needs of a model. `launch` is called by one thread only, the rest by several at once."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def in_flight(self) -> int:
        """Batches that may be launched and not yet done."""
        ...

    @property
    def least_cost(self) -> int | None:
        """Batches in flight are computed side by side, and want what waits shared out among them, but in no smaller parts than this
        cost. None: a device computes one after the other, and wants each as full as it can be."""
        ...

    @property
    def broken(self) -> bool:
        """The device fails whatever it is given, until there is another process."""
        ...

    def estimate(self, item: Input) -> int:
        """At least what `prepare` will say the input costs, without looking into it; at least 1."""
        ...

    def prepare(self, item: Input, role: Role) -> Prepared:
        """Raises `InvalidInput` or `TooLarge`."""
        ...

    def launch(self, batch: Sequence[Prepared], *, alone: bool) -> Callable[[], Encoded]:
        """Starts the forward. What it returns waits for the result, in whatever thread. `alone`: nothing else was in the model or
        waited for it, so it may have all of the device, and may be done when this returns."""
        ...


@dataclass(slots=True, eq=False)
class Flight:
    """A batch in the model."""

    batch: list[Entry]
    began: float
    wait: Callable[[], Encoded]


class Batcher:
    """An `Encoder` in this process. Bound to the event loop it was started on; whoever starts it stops it."""

    def __init__(
        self,
        runtime: Runtime,
        settings: QueueSettings,
        metrics: Metrics,
        *,
        prepare_threads: int = 2,
        stuck_after_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._queue = Queue(settings, clock, beside=runtime.in_flight, least_cost=runtime.least_cost)
        # By whether an input has a picture: a text search never waits for a picture to be decoded.
        self._pools = {
            pictures: ThreadPoolExecutor(threads, name, initializer=yield_to_others)
            for pictures, threads, name in ((False, 1, "tokenise"), (True, prepare_threads, "prepare"))
        }
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (("model", self._launch_all), *[("results", self._collect_all)] * runtime.in_flight)
        ]
        self._measuring = threading.Lock()
        self._slots = threading.Semaphore(runtime.in_flight)
        self._launched: SimpleQueue[Flight | None] = SimpleQueue()
        self._begun: list[float] = []  # when each forward and each prepare began that has not ended
        self._last_end = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_success: float | None = None
        self._cost_done, self._busy_s = 0.0, 0.0
        metrics.watch_queue(self._queue.held)

    # --- life

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Answers what was admitted, for at most `grace_s`; whoever is left gets `DependencyUnavailable`."""
        self._queue.drain()
        until = time.monotonic() + grace_s
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, max(0.0, until - time.monotonic()))
        _settle([(entry, _stopped()) for entry in self._queue.close()])
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """The threads run, nothing in the model or the pool is stuck, and the device computes."""
        oldest = min(tuple(self._begun), default=None)
        stuck = oldest is not None and self._clock() - oldest >= self._stuck_after_s
        ended = self._queue.closed or not all(thread.is_alive() for thread in self._threads)
        return not (ended or stuck or self._runtime.broken)

    async def check(self, max_age_s: float) -> None:
        """A forward has worked within `max_age_s`, or works now. Raises what kept it from working (promise 10)."""
        if not self.alive:
            raise DependencyUnavailable("the encoder's model is dead or stuck")
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
        with tracing.span("encode", inputs=len(entries), lane=lane):
            self._admit(lane, entries)
            try:
                for entry in entries:
                    self._pools[entry.has_picture].submit(self._prepare_next, entry.has_picture)
                results = await asyncio.gather(*(entry.future for entry in entries))
            finally:
                self._queue.discard(entries)
            _note_times(results)
        for result in results:
            if isinstance(result, DependencyUnavailable):
                raise result
        return results

    def _admit(self, lane: Lane, entries: Sequence[Entry]) -> None:
        if not self.alive:
            raise DependencyUnavailable("the encoder is not running")
        if over := self._queue.admit(lane, entries, self._cost_per_s):
            self._metrics.overloaded.labels(lane).inc()
            raise Overloaded(
                f"the {lane} queue of the encoder is full: {self._queue.held(lane)} of its cost is waiting and this call would "
                f"put it {over} over its bound",
                retry_after_s=over / self._cost_per_s if self._cost_per_s else 1.0,
            )

    # --- the pool

    def _prepare_next(self, pictures: bool) -> None:
        entry = self._queue.next_to_prepare(pictures=pictures)
        if entry is None:
            return
        began = self._clock()
        self._begun.append(began)
        prepared: Prepared | RetrievalError = EncodeFailed("this input could not be prepared")
        try:
            prepared = _attempt(lambda: self._runtime.prepare(entry.item, entry.role), "prepare")
        finally:
            # Also when it was no Exception: a panic in the tokeniser's Rust code is not one, and the pool would swallow it.
            self._begun.remove(began)
            entry.decode_s = self._clock() - began
            self._metrics.prepare_seconds.observe(entry.decode_s)
            if isinstance(prepared, RetrievalError):
                self._deliver([(entry, prepared)])
            else:
                self._queue.ready(entry, prepared)

    # --- the model thread and the results thread

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            # Also when something that is no Exception ends a thread: nobody may wait for a thread that is gone.
            self._launched.put(None)
            if not self._queue.refuses:
                log.critical("a thread of the model died", thread=threading.current_thread().name)
                self._deliver([(entry, _stopped()) for entry in self._queue.close()])

    def _launch_all(self) -> None:
        yield_to_others()
        while self._slots.acquire() and (batch := self._queue.next_batch()):
            self._launch(batch)

    def _launch(self, batch: list[Entry]) -> None:
        prepared = [entry.prepared for entry in batch if entry.prepared is not None]
        began = self._clock()
        self._begun.append(began)
        alone = self._queue.alone(batch)
        outcome = _attempt(lambda: self._runtime.launch(prepared, alone=alone), "forward")
        if isinstance(outcome, RetrievalError):
            self._conclude(batch, outcome, began)
        else:
            self._launched.put(Flight(batch, began, outcome))

    def _collect_all(self) -> None:
        while flight := self._launched.get():
            self._conclude(flight.batch, _attempt(partial(self._result, flight), "forward"), flight.began)

    def _result(self, flight: Flight) -> Encoded:
        encoded = flight.wait()
        _check_shapes(encoded, len(flight.batch), self._runtime.info)
        return encoded

    def _conclude(self, batch: list[Entry], outcome: Encoded | RetrievalError, began: float) -> None:
        """A batch that failed is run again input by input, where the device still computes; anything else is answered."""
        self._begun.remove(began)
        if isinstance(outcome, RetrievalError) and self._runtime.broken:
            outcome = DependencyUnavailable("the encoder's device has failed and computes nothing any more")
        elif isinstance(outcome, RetrievalError) and len(batch) > 1:
            self._queue.retry_alone(batch)
            self._slots.release()
            return
        results = self._results(batch, outcome, began)
        try:
            self._queue.answered(batch, self._clock() - began)
            self._slots.release()  # the queue knew first, for the next batch depends on it
            self._observe(batch, began)
        finally:
            # Whatever raised: the queue has let go of the batch, and would not answer it when it is closed.
            self._deliver(list(zip(batch, results, strict=True)))

    def _results(self, batch: list[Entry], outcome: Encoded | RetrievalError, began: float) -> list[Result]:
        if not isinstance(outcome, RetrievalError):
            encoded = outcome
            results = _attempt(lambda: self._embeddings(batch, encoded, began), "results")
            if not isinstance(results, RetrievalError):
                return results
            outcome = results
        return [outcome] * len(batch)

    def _embeddings(self, batch: list[Entry], encoded: Encoded, began: float) -> list[Result]:
        encode_s = self._clock() - began
        fingerprint = self._runtime.info.fingerprint
        results: list[Result] = []
        for row, (entry, norm) in enumerate(zip(batch, _norms(encoded), strict=True)):
            if not abs(norm - 1) <= _NORM_TOLERANCE:  # NaN is neither above nor below
                results.append(EncodeFailed(f"the model gave an embedding of length {norm:g}, which cannot be used"))
                continue
            self._last_success = self._clock()
            timing = Timing(entry.decode_s, began - entry.ready_at, encode_s)
            self._metrics.queue_wait_seconds.labels(entry.lane).observe(timing.queue_s)
            dropped = entry.prepared.dropped_tokens if entry.prepared else 0
            vector, shares, latents = _row(encoded, row)
            results.append(Embedding(vector, fingerprint, dropped, entry.cost, timing, shares, latents))
        return results

    def _observe(self, batch: list[Entry], began: float) -> None:
        cost, most = sum(entry.cost for entry in batch), self._queue.max_batch_cost
        with self._measuring:
            ended = self._clock()
            added_s = ended - max(began, self._last_end)  # of the time that the model was busy
            self._last_end = ended
            # A batch that was launched behind another one began when that one ended; one beside another began when it did.
            forward_s = added_s if self._runtime.least_cost is None else ended - began
            self._metrics.batch(batch[0].lane, len(batch), cost, most, forward_s)
            if cost < most * _RATE_MIN_FILL:
                return
            kept = 0.5 ** (added_s / _RATE_HALF_LIFE_S)
            self._cost_done = self._cost_done * kept + cost
            self._busy_s = self._busy_s * kept + max(added_s, 1e-6)

    @property
    def _cost_per_s(self) -> float | None:
        """What the model does while it is busy; None before the first batch that was a quarter full."""
        return self._cost_done / self._busy_s if self._busy_s else None

    def _deliver(self, answers: list[tuple[Entry, Result]]) -> None:
        """From any thread to the waiting tasks."""
        for entry, result in answers:
            self._metrics.encoded.labels(entry.lane, result.code if isinstance(result, RetrievalError) else "ok").inc()
        if self._loop is not None:
            # A closed loop has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, answers)


def _check_shapes(encoded: Encoded, rows: int, info: ModelInfo) -> None:
    """Raises `EncodeFailed` where a forward did not give one row for each input."""
    vectors, shares, latents = encoded.vectors, encoded.shares, encoded.latents
    if vectors.shape != (rows, info.dimensions):
        raise EncodeFailed(f"the model gave vectors of shape {vectors.shape}, wanted {(rows, info.dimensions)}")
    if shares is not None and (shares.ndim, len(shares), shares.shape[-1]) != (3, rows, 2):
        raise EncodeFailed(f"the model gave shares of shape {shares.shape}, wanted ({rows}, layers, 2)")
    wanted = (rows, info.latents, info.dimensions)
    if latents is not None and latents.shape != wanted:
        raise EncodeFailed(f"the model gave latents of shape {latents.shape}, wanted {wanted}")


def _norms(encoded: Encoded) -> Float64:
    """(B,): of each row the length of that vector, embedding or latent, which is furthest from 1."""
    vectors = encoded.vectors[:, None]  # (B, 1, D)
    if encoded.latents is not None:
        vectors = np.concatenate([vectors, encoded.latents], axis=1)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=2)  # (B, 1 + K); in float32 a large row would overflow
    worst: Float64 = norms[np.arange(len(norms)), np.abs(norms - 1).argmax(axis=1)]
    return worst


def _row(encoded: Encoded, row: int) -> tuple[Float32, Shares | None, Float32 | None]:
    """Copies: an embedding that is kept must not keep its batch."""
    shares = None if encoded.shares is None else tuple((text, image) for text, image in encoded.shares[row].tolist())
    latents = None if encoded.latents is None else encoded.latents[row].astype(np.float32, copy=True)
    return encoded.vectors[row].astype(np.float32, copy=True), shares, latents


def _note_times(results: Sequence[Result]) -> None:
    if timings := [one.timing for one in results if isinstance(one, Embedding)]:
        tracing.note(queue_ms=max(one.queue_s for one in timings) * 1e3)
        tracing.note(encode_ms=max(one.encode_s for one in timings) * 1e3)


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
