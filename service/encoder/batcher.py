"""Dynamic batching: a thread pool prepares inputs, the queue forms batches, and a single thread owns the device.

    encode() -- admit --> queue: unprepared --> pool: prepare --> queue: ready --> model thread: launch
    (event     refuses    searches first        decode,           searches         a batch within
     loop)     over the                         tokenise          first            the cost budget
       ^       bound                                                                    |
       +------------- results thread: waits for the device, checks vectors, answers <---+

Any number of models may share the device. A batch is of one of them; admission, order and bounds are over all.

A device gets its next batch before it has finished the last: at most `Runtime.in_flight` batches are launched.

The design follows text-embeddings-inference (core/src/queue.rs): walk the queue, drop callers who have gone, stop at
the budget; a batch that raises fails alone and the loop goes on; the health check runs a real forward. Two things
differ: nothing is admitted past the bound, and a batch that raised is run again input by input, so that only the
input at fault fails.
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
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from indexer.encoding.encoder import Lane
from indexer.observability import tracing
from model.cpu.priority import yield_to_others
from model.errors import DependencyUnavailable, EncodeFailed, InvalidInput, Overloaded, RetrievalError
from model.passages import Cut, Passages
from model.types import Embedding, Encoded, Float32, Input, ModelInfo, Prepared, Role, Shares, Timing
from service.encoder.budget import Budget
from service.encoder.lanes import Entry, Result
from service.encoder.loaded import LoadedModel, Runtime
from service.encoder.queue import Queue
from service.observability.metrics import Metrics
from service.settings import QueueSettings

log = structlog.get_logger(__name__)
T = TypeVar("T")
Float64 = NDArray[np.float64]

# Busy time after which a batch counts half in the measured rate.
_RATE_HALF_LIFE_S = 10.0
# Smaller batches, as a share of the budget, do not count: a lone short text is slow for its cost.
_RATE_MIN_FILL = 0.25
# An embedding has unit length; bfloat16 is off by up to 0.004.
_NORM_TOLERANCE = 0.01


@dataclass(slots=True, eq=False)
class Flight:
    """A batch of one model in that model."""

    batch: list[Entry]
    began: float
    wait: Callable[[], Encoded]


class Batcher:
    """The device of this process. As an `Encoder` it is that of its first model; `add` brings others.

    It belongs to the event loop of `start`; its owner calls `stop`.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: QueueSettings,
        metrics: Metrics,
        *,
        budget: Budget | None = None,
        prepare_threads: int = 2,
        stuck_after_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first = LoadedModel(runtime, budget or Budget(settings.max_batch_cost, fixed=True))
        self._models: tuple[LoadedModel, ...] = (self.first,)
        self._metrics = metrics
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._queue = Queue(settings, clock)
        # Keyed by whether an input has a picture: a text search never waits until a picture is decoded.
        self._pools = {
            pictures: ThreadPoolExecutor(threads, name, initializer=yield_to_others)
            for pictures, threads, name in ((False, 1, "tokenise"), (True, prepare_threads, "prepare"))
        }
        self._cutter = ThreadPoolExecutor(1, "passages", initializer=yield_to_others)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (("model", self._launch_all), *[("results", self._collect_all)] * runtime.in_flight)
        ]
        self._measuring = threading.Lock()
        self._slots = threading.Semaphore(runtime.in_flight)
        self._launched: SimpleQueue[Flight | None] = SimpleQueue()
        # The start times of the forwards and preparations that have not ended.
        self._begun: list[float] = []
        self._last_end = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cost_done, self._busy_s = 0.0, 0.0
        metrics.watch_queue(self._queue.held)

    def add(self, runtime: Runtime, budget: Budget) -> LoadedModel:
        """Serve one more model on this device, also while others are at work."""
        model = LoadedModel(runtime, budget)
        self._models = (*self._models, model)
        return model

    # --- start and stop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Answer what was admitted for at most `grace_s`; callers still waiting then get `DependencyUnavailable`."""
        self._queue.drain()
        until = time.monotonic() + grace_s
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, max(0.0, until - time.monotonic()))
        _settle([(entry, _stopped()) for entry in self._queue.close()])
        for pool in (*self._pools.values(), self._cutter):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether the threads run, nothing is stuck in the model or the pools, and the device computes."""
        oldest = min(tuple(self._begun), default=None)
        stuck = oldest is not None and self._clock() - oldest >= self._stuck_after_s
        ended = self._queue.closed or not all(thread.is_alive() for thread in self._threads)
        return not (ended or stuck or self._broken)

    @property
    def _broken(self) -> bool:
        return any(model.runtime.broken for model in self._models)

    async def check(self, max_age_s: float, model: LoadedModel | None = None) -> None:
        """Raise the reason if no forward of the model worked within `max_age_s` and none works now."""
        if not self.alive:
            raise DependencyUnavailable("the encoder's model is dead or stuck")
        model = model or self.first
        if model.last_success is None or self._clock() - model.last_success > max_age_s:
            (result,) = await self.encode([Input(text="ready?")], role=Role.QUERY, lane=Lane.SEARCH, model=model)
            if isinstance(result, RetrievalError):
                raise result

    # --- the Encoder seam

    async def info(self) -> ModelInfo:
        return self.first.runtime.info

    async def encode(
        self, inputs: Sequence[Input], *, role: Role, lane: Lane, model: LoadedModel | None = None
    ) -> list[Result]:
        """Embed by one of the models, by default the first."""
        loop = asyncio.get_running_loop()
        model = model or self.first
        estimate = model.runtime.estimate
        entries = [Entry(item, model, role, lane, loop.create_future(), estimate(item)) for item in inputs]
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

    async def passages(self, texts: Sequence[str], cut: Cut, model: LoadedModel | None = None) -> list[Passages]:
        """Cut texts by the tokenizer of a model, one at a time beside the searches."""
        runtime, loop = (model or self.first).runtime, asyncio.get_running_loop()
        if not self.alive:
            raise DependencyUnavailable("the encoder is not running")
        return [await loop.run_in_executor(self._cutter, runtime.passages, text, cut) for text in texts]

    def _admit(self, lane: Lane, entries: Sequence[Entry]) -> None:
        if not self.alive:
            raise DependencyUnavailable("the encoder is not running")
        if over := self._queue.admit(lane, entries, self._cost_per_s):
            self._metrics.overloaded.labels(lane).inc()
            queued, cost = self._queue.held(lane), sum(entry.cost for entry in entries)
            retry_after_s = over / self._cost_per_s if self._cost_per_s else 1.0
            raise Overloaded(
                f"the {lane} queue of the encoder is full: {queued} cost units are queued, the limit is "
                f"{self._queue.bound(lane, self._cost_per_s)}, "
                f"and this call needs {cost}. Retry after {retry_after_s:.1f} s",
                retry_after_s=retry_after_s,
            )

    # --- the pools

    def _prepare_next(self, pictures: bool) -> None:
        entry = self._queue.next_to_prepare(pictures=pictures)
        if entry is None:
            return
        began = self._clock()
        self._begun.append(began)
        prepared: Prepared | RetrievalError = EncodeFailed("this input could not be prepared")
        try:
            prepared = _attempt(lambda: _prepare(entry), "prepare")
        finally:
            # Also after a panic in the tokenizer's Rust code, which is no `Exception` and which the pool would swallow.
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
            # Also when no `Exception` ended the thread: nobody may wait for a thread that is gone.
            self._launched.put(None)
            if not self._queue.refuses:
                log.critical("model thread died", thread=threading.current_thread().name)
                self._deliver([(entry, _stopped()) for entry in self._queue.close()])

    def _launch_all(self) -> None:
        yield_to_others()
        while self._slots.acquire() and (batch := self._queue.next_batch()):
            self._launch(batch)

    def _launch(self, batch: list[Entry]) -> None:
        prepared = [entry.prepared for entry in batch if entry.prepared is not None]
        began = self._clock()
        self._begun.append(began)
        outcome = _attempt(lambda: batch[0].model.runtime.launch(prepared), "forward")
        if isinstance(outcome, RetrievalError):
            self._conclude(batch, outcome, began)
        else:
            self._launched.put(Flight(batch, began, outcome))

    def _collect_all(self) -> None:
        while flight := self._launched.get():
            self._conclude(flight.batch, _attempt(partial(self._result, flight), "forward"), flight.began)

    def _result(self, flight: Flight) -> Encoded:
        encoded = flight.wait()
        _check_shapes(encoded, len(flight.batch), flight.batch[0].model.runtime.info)
        return encoded

    def _conclude(self, batch: list[Entry], outcome: Encoded | RetrievalError, began: float) -> None:
        """Answer a batch. A batch that failed is run again input by input while the device still computes."""
        self._begun.remove(began)
        if isinstance(outcome, RetrievalError) and self._broken:
            outcome = DependencyUnavailable("the encoder's device has failed; its process has to be restarted")
        elif isinstance(outcome, RetrievalError) and len(batch) > 1:
            self._queue.retry_alone(batch)
            self._slots.release()
            return
        results = self._results(batch, outcome, began)
        try:
            self._queue.answered(batch, self._clock() - began)
            # After the queue was told, for the next batch depends on it.
            self._slots.release()
            self._observe(batch, began)
        finally:
            # Whatever raised: the queue no longer holds the batch, and closing it would not answer these callers.
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
        model = batch[0].model
        fingerprint = model.runtime.info.fingerprint
        results: list[Result] = []
        for row, (entry, norm) in enumerate(zip(batch, _norms(encoded), strict=True)):
            # Negated, so that NaN fails too.
            if not abs(norm - 1) <= _NORM_TOLERANCE:
                results.append(EncodeFailed(f"the model gave an embedding of length {norm:g}, which cannot be used"))
                continue
            model.last_success = self._clock()
            timing = Timing(entry.decode_s, began - entry.ready_at, encode_s)
            self._metrics.queue_wait_seconds.labels(entry.lane).observe(timing.queue_s)
            dropped = entry.prepared.dropped_tokens if entry.prepared else 0
            vector, shares, latents = _row(encoded, row)
            results.append(Embedding(vector, fingerprint, dropped, entry.cost, timing, shares, latents))
        return results

    def _observe(self, batch: list[Entry], began: float) -> None:
        model = batch[0].model
        cost, most = sum(entry.cost for entry in batch), model.budget.cost
        with self._measuring:
            ended = self._clock()
            # Busy time that this batch adds: a batch launched behind another began when that ended.
            added_s = ended - max(began, self._last_end)
            self._last_end = ended
            name = model.runtime.info.name
            self._metrics.batch(name, batch[0].lane, len(batch), cost, most, added_s)
            model.budget.observe(cost, added_s)
            if cost < most * _RATE_MIN_FILL:
                return
            decay = 0.5 ** (added_s / _RATE_HALF_LIFE_S)
            self._cost_done = self._cost_done * decay + cost
            self._busy_s = self._busy_s * decay + max(added_s, 1e-6)

    @property
    def _cost_per_s(self) -> float | None:
        """Cost per second of busy time; None before the first batch that was a quarter full."""
        return self._cost_done / self._busy_s if self._busy_s else None

    def _deliver(self, answers: list[tuple[Entry, Result]]) -> None:
        """Hand results to the waiting tasks, from any thread."""
        for entry, result in answers:
            outcome = result.code if isinstance(result, RetrievalError) else "ok"
            self._metrics.encoded.labels(entry.model.runtime.info.name, entry.lane, outcome).inc()
        if self._loop is not None:
            # Nobody waits in a loop that is closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, answers)


def _prepare(entry: Entry) -> Prepared:
    runtime = entry.model.runtime
    present = {"text": bool(entry.item.text), "image": entry.item.image is not None}
    modalities = runtime.info.modalities
    if missing := [modality for modality, has in present.items() if has and modality not in modalities]:
        raise InvalidInput(
            f"model {runtime.info.name} embeds {' and '.join(modalities)} alone, and this input has {missing[0]}: "
            f"leave it out, or name a model that embeds it (GET /info lists the modalities of each)",
            field=missing[0],
        )
    return runtime.prepare(entry.item, entry.role)


def _check_shapes(encoded: Encoded, rows: int, info: ModelInfo) -> None:
    """Raise `EncodeFailed` unless the forward gave a row for each input."""
    vectors, shares, latents = encoded.vectors, encoded.shares, encoded.latents
    if vectors.shape != (rows, info.dimensions):
        raise EncodeFailed(f"the model gave vectors of shape {vectors.shape}, expected {(rows, info.dimensions)}")
    if shares is not None and (shares.ndim, len(shares), shares.shape[-1]) != (3, rows, 2):
        raise EncodeFailed(f"the model gave shares of shape {shares.shape}, expected ({rows}, layers, 2)")
    expected = (rows, info.latents, info.dimensions)
    if latents is not None and latents.shape != expected:
        raise EncodeFailed(f"the model gave latents of shape {latents.shape}, expected {expected}")


def _norms(encoded: Encoded) -> Float64:
    """Return (B,): for each row the length, furthest from 1, among its embedding and latents."""
    vectors = encoded.vectors[:, None]  # (B, 1, D)
    if encoded.latents is not None:
        vectors = np.concatenate([vectors, encoded.latents], axis=1)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=2)  # (B, 1 + K); in float32 a large row would overflow
    worst: Float64 = norms[np.arange(len(norms)), np.abs(norms - 1).argmax(axis=1)]
    return worst


def _row(encoded: Encoded, row: int) -> tuple[Float32, Shares | None, Float32 | None]:
    """Copy a row, so that a stored embedding does not keep its whole batch in memory."""
    shares = None if encoded.shares is None else tuple((text, image) for text, image in encoded.shares[row].tolist())
    latents = None if encoded.latents is None else encoded.latents[row].astype(np.float32, copy=True)
    return encoded.vectors[row].astype(np.float32, copy=True), shares, latents


def _note_times(results: Sequence[Result]) -> None:
    if timings := [result.timing for result in results if isinstance(result, Embedding)]:
        tracing.note(queue_ms=max(timing.queue_s for timing in timings) * 1e3)
        tracing.note(encode_ms=max(timing.encode_s for timing in timings) * 1e3)


def _settle(answers: list[tuple[Entry, Result]]) -> None:
    for entry, result in answers:
        if not entry.future.done():
            entry.future.set_result(result)


def _stopped() -> DependencyUnavailable:
    return DependencyUnavailable("the encoder stopped before this input had its turn")


def _attempt(call: Callable[[], T], stage: str) -> T | RetrievalError:
    """Turn whatever a model raises into an answer, so that the threads go on (docs/promises.md)."""
    try:
        return call()
    except RetrievalError as error:
        return error
    except Exception as error:
        log.exception("encoder stage failed", stage=stage)
        # The message of a library's exception may hold the input, so the caller is told its type alone.
        return EncodeFailed(f"the model raised {type(error).__name__} on this input")
