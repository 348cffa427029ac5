"""Scalars of a training run as TensorBoard reads them (`tensorboard --logdir RUN/logs`), written by tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped,unused-ignore]
except ImportError:  # the extra `train`; a run is the same without its log
    SummaryWriter = None


class TrainLog:
    """Does nothing when tensorboardX is not installed, or with `folder` None. Its owner closes it."""

    def __init__(self, folder: Path | None, done: int = 0) -> None:
        """`done` steps are kept of what an earlier run logged there: those after them are made again."""
        self._writer: Any = None
        if folder is not None and SummaryWriter is not None:
            self._writer = SummaryWriter(str(folder), purge_step=done or None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def can_log() -> bool:
    return SummaryWriter is not None
