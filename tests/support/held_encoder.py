"""`ret2` with a model that the test holds: `python held_encoder.py serve --role=encoder --model=GATE …`.

While the file GATE is there a forward of the text "hold" does not end, in a thread of a pool, as the runtime has them:
Python waits for such threads before it ends. The file GATE.busy says that it has begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from model.passages import Cut, Passages, cut_text
from model.types import Encoded, Input, ModelInfo, Prepared, Role
from service import wiring
from service.cli.main import app
from service.encoder.batcher import Batcher
from service.encoder.budget import Budget
from service.encoder.models import LocalModels
from service.observability.metrics import Metrics
from service.settings import Settings

D = 8


class HeldRuntime:
    info = ModelInfo("held", "fingerprint", D, 100, 16)
    in_flight = 1
    broken = False

    def __init__(self, gate: Path) -> None:
        self._gate = gate
        self._pool = ThreadPoolExecutor(1)

    def estimate(self, item: Input) -> int:
        return len(item.text or "")

    def prepare(self, item: Input, role: Role) -> Prepared:
        tokens = np.frombuffer((item.text or "").encode(), np.uint8).astype(np.int64)
        return Prepared(role, tokens, None, len(tokens))

    def passages(self, text: str, cut: Cut) -> Passages:
        most = min(cut.tokens or self.info.max_text_tokens, self.info.max_text_tokens)
        return cut_text(text, cut, most, lambda texts: [len(text.encode()) for text in texts])

    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        encoded = self._pool.submit(self._encode, batch).result()
        return lambda: encoded

    def _encode(self, batch: Sequence[Prepared]) -> Encoded:
        for item in batch:
            if item.tokens is not None and bytes(item.tokens.tolist()) == b"hold":
                self._gate.with_suffix(".busy").touch()
                while self._gate.exists():
                    time.sleep(0.01)
        return Encoded(np.eye(D, dtype=np.float32)[[0] * len(batch)])


def _load(settings: Settings, _metrics: Metrics, serve: Callable[[HeldRuntime, Budget], Batcher]) -> LocalModels:
    return LocalModels.of(serve(HeldRuntime(Path(settings.models)), Budget(2_048, fixed=True)))


if __name__ == "__main__":
    wiring._load_models = _load
    app(prog_name="ret2")
