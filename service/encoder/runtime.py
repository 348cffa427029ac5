"""The model behind the batcher: the only module of the service that imports torch, and only its assembly imports this one."""

from __future__ import annotations

import contextlib
import ctypes
import io
import time
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import structlog
import torch
from PIL import Image

from model.cpu.packed import pack_linears
from model.cpu.threads import LEAST_COST, ForwardThreads
from model.errors import EncodeFailed
from model.retriever import Retriever, dtype_of
from model.types import Encoded, Input, Limits, ModelInfo, Prepared, Role
from service.observability.metrics import DeviceState

log = structlog.get_logger(__name__)
T = TypeVar("T")

_MIN_BATCH_COST = 512  # below it texts go in batches too small: 16 tokens each, 32 of them are 1.5 times faster than 8
_MAX_BATCH_COST = 131_072
_WORTH_IT = 1.05  # a compiled tower is kept when it is this much faster
# Threads with batches of their own are kept unless one batch by all of them is this much faster on a machine that does nothing else:
# on one that does, nobody waits for the slowest.
_WORTH_LOSING = 1.25
_WORTH_WAITING = 1.1  # and batches twice as large, behind which searches wait twice as long
_TEXT = " ".join(["word"] * 24)  # of a document that is measured with
_DOCUMENTS = 8  # for each thread
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MEMORY_SHARE = (
    0.7  # of the memory there is for us that a measured batch may take; inputs differ, and other things want some
)


class TorchRuntime:
    """A `Runtime` over a `Retriever`. `launch` belongs to one thread; the rest may be called from any."""

    def __init__(self, retriever: Retriever, limits: Limits) -> None:
        self._retriever = retriever
        self._limits = limits
        self._oom_recoveries = 0
        self._broken = False
        self._threads = ForwardThreads() if retriever.device.type == "cpu" else None
        self._picture = self.prepare(Input(image=_dot()), Role.DOCUMENT)
        self._document = self.prepare(Input(_TEXT, _dot()), Role.DOCUMENT)

    @classmethod
    def load(
        cls, source: str, *, device: str, precision: str, compiled: bool, threads: int | None, limits: Limits
    ) -> Self:
        place = choose_device(device)
        if place == "cpu":
            _keep_freed_memory()
        retriever = Retriever.load(source, device=place, dtype=choose_dtype(precision, place), threads=threads)
        info = retriever.info
        log.info("model loaded", model=info.name, commit=info.commit, fingerprint=info.fingerprint)
        retriever.pack(vision=not compiled)
        runtime = cls(retriever, limits)
        runtime.warm_up()
        runtime.choose_threads()
        if compiled:
            runtime.compile_if_faster()
        return runtime

    @property
    def info(self) -> ModelInfo:
        return self._retriever.info

    @property
    def in_flight(self) -> int:
        """A CPU has one in each thread; another device one that it works on and one behind it, for more would only make searches wait."""
        if self._retriever.device.type != "cpu":
            return 2
        return self._threads.count if self._threads else 1

    @property
    def least_cost(self) -> int | None:
        return LEAST_COST if self.in_flight > 1 and self._threads else None

    @property
    def broken(self) -> bool:
        """After an assertion that failed inside a kernel, CUDA fails every call of its process."""
        return self._broken

    def state(self) -> DeviceState:
        """From any thread."""
        retriever = self._retriever
        return DeviceState(retriever.tokens, retriever.padding, self._oom_recoveries, _memory_bytes(retriever.device))

    def estimate(self, item: Input) -> int:
        """No tokeniser makes more tokens than a text has bytes, but for the special ones at its ends."""
        text_cost = 0
        if item.text:
            most = min(len(item.text.encode("utf-8", "replace")) + 2, self.info.max_text_tokens)
            text_cost = self._retriever.preprocessor.text_positions or most
        return max(1, text_cost + (self._picture.cost if item.image is not None else 0))

    def prepare(self, item: Input, role: Role) -> Prepared:
        return self._retriever.prepare(item, role, self._limits)

    def launch(self, batch: Sequence[Prepared], *, alone: bool) -> Callable[[], Encoded]:
        """A batch that does not fit into the device's memory is halved until it does; raises `EncodeFailed` for one input that
        does not fit by itself. On a CPU one that is alone has all threads, in each operation; else each has one."""
        if self._threads and not alone:
            return self._threads.launch(self._retriever.launch, batch)
        wait = self._seen_to(lambda: self._launch(batch))
        return lambda: self._seen_to(wait)

    def _seen_to(self, work: Callable[[], T]) -> T:
        """What `work` gives. When it raises, which may be long after the kernel that is to blame, the device is asked whether it still
        computes."""
        try:
            return work()
        except RuntimeError:
            if not self._broken and not _computes(self._retriever.device):
                log.critical("the device computes nothing any more", device=str(self._retriever.device))
                self._broken = True
            raise

    def _launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        try:
            return self._retriever.launch(batch)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        # Outside the handler: the traceback holds the tensors of the forward that failed.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise EncodeFailed(
                f"this input of {batch[0].cost} positions does not fit into the memory of {self._retriever.device}"
            )
        self._oom_recoveries += 1
        log.warning("out of memory, batch is halved", inputs=len(batch), reason=reason)
        middle = len(batch) // 2
        halves = [self._launch(part)() for part in (batch[:middle], batch[middle:])]
        return lambda: Encoded.joined(halves)

    def warm_up(self) -> None:
        """One forward of every kind, so that the first caller does not pay for lazy initialisation."""
        items = [Input("warm up"), Input(image=_dot()), Input("warm up", _dot())]
        for role in Role:
            batch = [self.prepare(item, role) for item in items]
            self.launch(batch, alone=True)()
            for wait in [self.launch(batch, alone=False) for _ in range(self.in_flight)]:
                wait()

    def choose_threads(self) -> None:
        """A model of many small operations is faster with all threads in each of them: Python runs one thread at a time, and has a
        part in every operation."""
        if self._threads is None:
            return
        threads, count = self._threads, self._threads.count * max(_DOCUMENTS, LEAST_COST // self._document.cost + 1)
        apart = self._per_s(self._document, count)
        self._threads = None
        together = self._per_s(self._document, count)
        if apart * _WORTH_LOSING > together:
            self._threads = threads
        log.info("threads chosen", apart=self._threads is threads, documents_per_s=round(max(apart, together), 1))

    def best_batch_cost(self, within_s: float = 1.5) -> int:
        """The smallest batch budget that is about as fast as any: batches of text and image are doubled while that pays, fits into
        memory and was measured `within_s`. Larger batches than that only make searches wait behind them."""
        until = time.monotonic() + within_s
        count, best_rate = 1, 0.0
        while (rate := self._per_s(self._document, count)) > best_rate * _WORTH_WAITING:
            best, best_rate = count, rate
            count *= 2
            if time.monotonic() > until or count * self._document.cost > _MAX_BATCH_COST or not self._has_room():
                break
        cost = max(_MIN_BATCH_COST, best * self._document.cost)
        log.info("batch budget measured", cost=cost, documents=best, documents_per_s=round(best_rate, 1))
        return cost

    def compile_if_faster(self) -> bool:
        """Compiles the vision tower and keeps it compiled if that is faster here than packing it. Takes a minute or more.

        One picture and several have code of their own. Nothing is compiled after the start: what the warm-up did not bring is computed as
        it was written, for compiling while somebody waits would hold every batch behind it, and be taken for a stuck forward.
        """
        tower = self._retriever.vision_tower
        count = max(1, _MIN_BATCH_COST // self._picture.cost)
        try:
            tower.compile(dynamic=True)
            self._per_s(self._picture, 1)
            compiled = self._per_s(self._picture, count)
        except Exception as error:  # noqa: BLE001  a compiler has many ways to fail, and none of them is a reason not to serve
            log.warning("the vision tower does not compile", reason=f"{type(error).__name__}: {error}"[:300])
            compiled = 0.0
        call, tower._compiled_call_impl = tower._compiled_call_impl, None
        unpack = pack_linears(tower) if self._retriever.packs else lambda: None
        plain = self._per_s(self._picture, count)
        faster = compiled > plain * _WORTH_IT
        if faster:
            unpack()
            tower._compiled_call_impl = call
            torch.compiler.set_stance("eager_on_recompile")  # of the process, which has no other model to compile
        log.info("compiled", kept=faster, images_per_s=round(compiled, 1), plain_images_per_s=round(plain, 1))
        return faster

    def _per_s(self, item: Prepared, count: int) -> float:
        """The best of three, the first of which pays for allocation; 0 when they do not fit into memory. Threads have a share each."""
        threads = self._threads.count if self._threads else 1
        shares = [count // threads + (thread < count % threads) for thread in range(threads)]
        seconds = []
        with contextlib.suppress(torch.OutOfMemoryError):
            for _ in range(3):
                began = time.perf_counter()
                for wait in [self._start([item] * share) for share in shares if share]:
                    wait()
                seconds.append(time.perf_counter() - began)
            return count / min(seconds)
        # What it took before it failed would be missing elsewhere, and make the next measurement end too soon.
        torch.cuda.empty_cache()
        return 0.0

    def _start(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        return self._threads.launch(self._retriever.launch, batch) if self._threads else self._retriever.launch(batch)

    def _has_room(self) -> bool:
        if self._retriever.device.type != "cuda":
            return True
        device = self._retriever.device
        free, _ = torch.cuda.mem_get_info(device)  # other processes may have some of the total
        ours = torch.cuda.memory_reserved(device) + free
        return torch.cuda.max_memory_reserved(device) * 2 < ours * _MEMORY_SHARE


def _computes(device: torch.device) -> bool:
    """Whether CUDA does anything at all; any other device that fails one call does the next."""
    if device.type != "cuda":
        return True
    try:
        torch.ones(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


def _memory_bytes(device: torch.device) -> dict[str, int]:
    """`used` by tensors, `reserved` by torch for them, `total` of the device; nothing where it has no memory of its own."""
    if device.type != "cuda":
        return {}
    return {
        "used": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


def choose_device(wanted: str) -> str:
    """`auto` is the first of CUDA, MPS and CPU that is there."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """`auto` is float32 on a CPU, where it is exact, and half of it on CUDA, bfloat16 where the device has it."""
    if wanted != "auto":
        return dtype_of(wanted)
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _keep_freed_memory() -> None:
    """glibc hands large blocks back to the kernel as they are freed, and the next forward waits for as many page faults: a sixth of
    its time with batches of eight images. Another C library may have no such switch."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)


def _dot() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(file, "PNG")
    return file.getvalue()
