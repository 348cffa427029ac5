"""A model behind the batcher: the only module of the service that imports torch; only `service.wiring` imports it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self, TypeVar

import structlog
import torch
from PIL import Image

from model.cpu.packed import pack_linears
from model.cpu.quota import usable_cpus
from model.cpu.threads import LEAST_COST, ForwardThreads
from model.errors import EncodeFailed
from model.retriever import Retriever, dtype_of
from model.sharing import share_weights
from model.types import Encoded, Input, Limits, ModelInfo, Prepared, Role
from service.observability.metrics import DeviceState

log = structlog.get_logger(__name__)
T = TypeVar("T")

# Below it batches of texts are too small: of 16 tokens each, 32 are 1.5 times faster than 8.
_MIN_BATCH_COST = 512
_MAX_BATCH_COST = 131_072
# A compiled tower is kept if it is at least this much faster.
_MIN_SPEEDUP_TO_COMPILE = 1.05
# Threads share each batch if that is this much faster on an idle machine than a batch for each thread; on a busy
# machine sharing means waiting for the slowest thread.
_MIN_SPEEDUP_TO_SHARE_THREADS = 1.25
# Batches are doubled, and searches wait twice as long behind them, if that is this much faster.
_MIN_SPEEDUP_TO_DOUBLE = 1.1
# The document that measurements use, and how many of them each thread gets.
_TEXT = " ".join(["word"] * 24)
_DOCUMENTS = 8
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# The share of the available memory that a measured batch may take: inputs differ, and other work needs some.
_MEMORY_SHARE = 0.7


class ModelDevice:
    """The device of this process, which its models share: the threads of a CPU, and whether it still computes.

    How the threads are used is measured with the first model that is loaded, and holds for the others.
    """

    def __init__(self, place: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self.place, self.dtype = torch.device(place), dtype
        self.broken = False
        self.threads = ForwardThreads() if self.place.type == "cpu" else None
        self.threads_chosen = self.threads is None

    @classmethod
    def open(cls, device: str, precision: str, threads: int | None) -> Self:
        place = choose_device(device)
        if place == "cpu":
            _keep_freed_memory()
        torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cpus()))
        return cls(place, choose_dtype(precision, place))

    def check(self) -> None:
        """Find out whether the device still computes, after a call of it has failed."""
        if not self.broken and not _computes(self.place):
            log.critical("device failed", device=str(self.place))
            self.broken = True


class TorchRuntime:
    """A `Runtime` over a `Retriever`. Only one thread calls `launch`; everything else may be called from any thread."""

    def __init__(
        self, retriever: Retriever, limits: Limits, device: ModelDevice | None = None, *, name: str | None = None
    ) -> None:
        """`name`: what it is served by; unset: its own name."""
        self._retriever = retriever
        self._name = name or retriever.info.name
        self._limits = limits
        self._oom_recoveries = 0
        self._device = device or ModelDevice(retriever.device)
        self._picture = self.prepare(Input(image=_one_pixel_png()), Role.DOCUMENT)
        self._document = self.prepare(Input(_TEXT, _one_pixel_png()), Role.DOCUMENT)

    @classmethod
    def load(
        cls,
        source: str,
        device: ModelDevice,
        limits: Limits,
        *,
        name: str | None = None,
        compiled: bool = False,
        shared: bool = False,
    ) -> Self:
        """Load, pack and warm up a model. `shared`: weights that other models of this process have too are theirs."""
        retriever = Retriever.load(source, device=str(device.place), dtype=device.dtype)
        info = retriever.info
        name = name or info.name
        log.info("model loaded", model=name, source=source, commit=info.commit, fingerprint=info.fingerprint)
        if shared:
            share_weights(retriever)
        retriever.pack(vision=not compiled)
        runtime = cls(retriever, limits, device, name=name)
        runtime.warm_up()
        runtime.choose_threads()
        if compiled:
            runtime.compile_if_faster()
        return runtime

    @property
    def info(self) -> ModelInfo:
        return replace(self._retriever.info, name=self._name)

    @property
    def in_flight(self) -> int:
        """A CPU computes a batch in each thread; another device computes one and has one queued."""
        if self._retriever.device.type != "cpu":
            return 2
        return self._threads.count if self._threads else 1

    @property
    def least_cost(self) -> int | None:
        return LEAST_COST if self.in_flight > 1 and self._threads else None

    @property
    def broken(self) -> bool:
        """Whether CUDA fails every call of this process, as it does after an assertion failed inside a kernel."""
        return self._device.broken

    @property
    def _threads(self) -> ForwardThreads | None:
        return self._device.threads

    def state(self) -> DeviceState:
        """Return the state of the device; callable from any thread."""
        retriever = self._retriever
        return DeviceState(retriever.tokens, retriever.padding, self._oom_recoveries, _memory_bytes(retriever.device))

    def estimate(self, item: Input) -> int:
        """Return an upper bound: a tokenizer makes at most a token for each byte, and special ones at the ends."""
        text_cost = 0
        if item.text:
            most = min(len(item.text.encode("utf-8", "replace")) + 2, self.info.max_text_tokens)
            text_cost = self._retriever.preprocessor.text_positions or most
        return max(1, text_cost + (self._picture.cost if item.image is not None else 0))

    def prepare(self, item: Input, role: Role) -> Prepared:
        return self._retriever.prepare(item, role, self._limits)

    def launch(self, batch: Sequence[Prepared], *, alone: bool) -> Callable[[], Encoded]:
        """Start a batch, halved until it fits into memory. Raises `EncodeFailed` for an input that does not fit.

        On a CPU a batch that is alone uses all threads in each operation, else each batch has a thread.
        """
        if self._threads and not alone:
            return self._threads.launch(self._retriever.launch, batch)
        wait = self._checking_device(lambda: self._launch(batch))
        return lambda: self._checking_device(wait)

    def _checking_device(self, work: Callable[[], T]) -> T:
        """Return the result of `work`. If it raises, check whether the device still computes."""
        try:
            return work()
        except RuntimeError:
            self._device.check()
            raise

    def _launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        try:
            return self._retriever.launch(batch)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        # Outside the handler, whose traceback holds the tensors of the failed forward.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise EncodeFailed(
                f"this input of {batch[0].cost} positions does not fit into the memory of {self._retriever.device}"
            )
        self._oom_recoveries += 1
        log.warning("batch halved, out of memory", inputs=len(batch), reason=reason)
        middle = len(batch) // 2
        halves = [self._launch(part)() for part in (batch[:middle], batch[middle:])]
        return lambda: Encoded.joined(halves)

    def warm_up(self) -> None:
        """Run a forward of every kind, so that the first caller does not wait for lazy initialisation."""
        items = [Input("warm up"), Input(image=_one_pixel_png()), Input("warm up", _one_pixel_png())]
        for role in Role:
            batch = [self.prepare(item, role) for item in items]
            self.launch(batch, alone=True)()
            for wait in [self.launch(batch, alone=False) for _ in range(self.in_flight)]:
                wait()

    def choose_threads(self) -> None:
        """Choose between a batch for each thread and all threads for each batch, by measurement.

        A model of many small operations is faster with all threads in each operation, for Python runs one thread at
        a time.
        """
        device = self._device
        if device.threads is None or device.threads_chosen:
            return
        threads = device.threads
        count = threads.count * max(_DOCUMENTS, LEAST_COST // self._document.cost + 1)
        apart = self._throughput(self._document, count)
        device.threads = None
        together = self._throughput(self._document, count)
        if apart * _MIN_SPEEDUP_TO_SHARE_THREADS > together:
            device.threads = threads
        device.threads_chosen = True
        log.info("threads chosen", apart=device.threads is threads, documents_per_s=round(max(apart, together), 1))

    def best_batch_cost(self, within_s: float = 1.5) -> int:
        """Return the smallest batch budget that is about as fast as any, for larger batches only delay searches.

        Batches of text and image are doubled while that is faster, fits into memory and `within_s` is not over.
        """
        until = time.monotonic() + within_s
        count, best_rate = 1, 0.0
        while (rate := self._throughput(self._document, count)) > best_rate * _MIN_SPEEDUP_TO_DOUBLE:
            best, best_rate = count, rate
            count *= 2
            if time.monotonic() > until or count * self._document.cost > _MAX_BATCH_COST or not self._has_room():
                break
        cost = max(_MIN_BATCH_COST, best * self._document.cost)
        log.info("batch budget measured", cost=cost, documents=best, documents_per_s=round(best_rate, 1))
        return cost

    def compile_if_faster(self) -> bool:
        """Compile the vision tower, and keep it so if that is faster than packing it. Takes a minute or more.

        A single picture and several pictures have separate code. Nothing is compiled after the start, for compiling
        would hold up every batch and look like a stuck forward; shapes that the warm-up did not bring are computed
        without compilation.
        """
        tower = self._retriever.vision_tower
        count = max(1, _MIN_BATCH_COST // self._picture.cost)
        torch.compiler.set_stance("default")
        try:
            tower.compile(dynamic=True)
            self._throughput(self._picture, 1)
            compiled = self._throughput(self._picture, count)
        except Exception as error:  # noqa: BLE001  whatever a compiler raises, the plain tower serves
            log.warning("compilation failed", reason=f"{type(error).__name__}: {error}"[:300])
            compiled = 0.0
        call, tower._compiled_call_impl = tower._compiled_call_impl, None
        unpack = pack_linears(tower) if self._retriever.packs else lambda: None
        plain = self._throughput(self._picture, count)
        faster = compiled > plain * _MIN_SPEEDUP_TO_COMPILE
        if faster:
            unpack()
            tower._compiled_call_impl = call
            # Of the process: its models are compiled in turn, before any of them serves.
            torch.compiler.set_stance("eager_on_recompile")
        log.info(
            "compilation measured", kept=faster, images_per_s=round(compiled, 1), plain_images_per_s=round(plain, 1)
        )
        return faster

    def _throughput(self, item: Prepared, count: int) -> float:
        """Return inputs per second, the best of three runs, or 0 when they do not fit into memory."""
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
        # Memory taken before the failure would be missing elsewhere, and end the next measurement too soon.
        torch.cuda.empty_cache()
        return 0.0

    def _start(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        return self._threads.launch(self._retriever.launch, batch) if self._threads else self._retriever.launch(batch)

    def _has_room(self) -> bool:
        if self._retriever.device.type != "cuda":
            return True
        device = self._retriever.device
        # Other processes may use some of the total.
        free, _ = torch.cuda.mem_get_info(device)
        available = torch.cuda.memory_reserved(device) + free
        return torch.cuda.max_memory_reserved(device) * 2 < available * _MEMORY_SHARE


def _computes(device: torch.device) -> bool:
    """Return whether CUDA still computes; any other device recovers from a failed call."""
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
    """Return the bytes `used` by tensors, `reserved` by torch and `total` of a device with its own memory."""
    if device.type != "cuda":
        return {}
    return {
        "used": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


def choose_device(device: str) -> str:
    """Return the device; `auto` is the first of CUDA, MPS and CPU that this machine has."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(precision: str, device: str) -> torch.dtype:
    """Return the type to compute in; `auto` is float32 on a CPU, and bfloat16, else float16, on CUDA."""
    if precision != "auto":
        return dtype_of(precision)
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory. Returned to the kernel, it costs page faults: a sixth of a forward of eight images.

    Other C libraries have no such switch.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)


def _one_pixel_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(file, "PNG")
    return file.getvalue()
