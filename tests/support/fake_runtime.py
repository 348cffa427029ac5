"""A model without torch whose forwards a test can hold, fail and count."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence

import numpy as np

from model.errors import InvalidInput
from model.images.decoding import decode_image
from model.passages import Cut, Passages, cut_text
from model.types import Encoded, Float32, Input, Limits, ModelInfo, Prepared, Role

D = 64
IMAGE_COST = 16


class FakeRuntime:
    """Embeds a bag of words; an image is one more word. A token is a byte of the text, so a batch can be read back.

    `gate` closed holds every forward inside the model thread, as a CPU does; `on_result` runs where the result of a forward
    is waited for, as a GPU's is. `batches` has those that began.
    """

    info = ModelInfo("fake", "fake-fingerprint", D, 1_000, 16)
    in_flight = 2
    broken = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[str]] = []
        self.costs: list[list[int]] = []
        self.prepared: list[str] = []
        self.on_forward: Callable[[list[str]], Float32 | None] = lambda _texts: None
        self.on_result: Callable[[list[str]], object] = lambda _texts: None
        self.on_prepare: Callable[[Input], None] = lambda _item: None
        self.limits = Limits()

    def estimate(self, item: Input) -> int:
        return max(1, len((item.text or "").encode()) + (IMAGE_COST if item.image is not None else 0))

    def prepare(self, item: Input, role: Role) -> Prepared:
        self.on_prepare(item)
        self.prepared.append(item.text or "")
        if not (item.text or "").strip() and item.image is None:
            raise InvalidInput("neither text nor image")
        tokens = np.frombuffer((item.text or "").encode(), np.uint8).astype(np.int64)
        pixels = None
        if item.image is not None:
            image = decode_image(item.image, self.limits).resize((1, 1))
            pixels = np.asarray(image, np.float32).transpose(2, 0, 1)
        cost = max(1, len(tokens)) + (0 if pixels is None else IMAGE_COST)
        dropped = max(0, len(tokens) - self.info.max_text_tokens)
        return Prepared(role, tokens if len(tokens) else None, pixels, cost, dropped)

    def passages(self, text: str, cut: Cut) -> Passages:
        most = min(cut.tokens or self.info.max_text_tokens, self.info.max_text_tokens)
        return cut_text(text, cut, most, lambda texts: [len(text.encode()) for text in texts])

    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        texts = [bytes([] if item.tokens is None else item.tokens.astype(np.uint8)).decode() for item in batch]
        self.batches.append(texts)
        self.costs.append([item.cost for item in batch])
        assert self.gate.wait(10), "the test never opened the gate"
        answer = self.on_forward(texts)
        if answer is None:
            answer = np.stack([embed(text, item.pixels) for text, item in zip(texts, batch, strict=True)])

        def wait() -> Encoded:
            instead = self.on_result(texts)
            return instead if isinstance(instead, Encoded) else Encoded(answer, shares(batch))

        return wait

    async def busy_with(self, text: str) -> None:
        await until(lambda: any(text in batch for batch in self.batches))


def shares(batch: Sequence[Prepared]) -> Float32:
    """(B, 2, 2): a quarter of two layers is the image's, where there is one and a text beside it."""
    image = np.array([0 if item.pixels is None else 1 if item.tokens is None else 0.25 for item in batch], np.float32)
    return np.repeat(np.stack([1 - image, image], axis=1)[:, None], 2, axis=1)


def embed(text: str, pixels: Float32 | None = None) -> Float32:
    words = text.lower().split() + ([] if pixels is None else [str(pixels.round().tolist())])
    vector = np.zeros(D, np.float32)
    for word in words:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        vector += np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    return vector / np.linalg.norm(vector)


async def until(condition: Callable[[], bool]) -> None:
    """Gives way to the other threads until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for is another thread's private state
            await asyncio.sleep(0)
