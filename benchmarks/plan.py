"""How large a bench is: what the sections measure with, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import RET2, Fusion, clip_folder, ret2_folder
from benchmarks.inputs import Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` pairs of runs of `seconds` each, after `warm_up_s`; a batch or an answer that takes longer is waited for."""

    shape: str = "B/32"
    vocabulary: str = "clip"
    rounds: int = 4
    seconds: float = 8.0
    warm_up_s: float = 3.0
    overload_s: float = 45.0
    search_s: float = 60.0
    documents: int | None = None  # of atlas, in the index that is searched; None: all
    connections: tuple[int, ...] = (1, 8, 32, 128)
    peer_connections: tuple[int, ...] = (1, 8, 32)
    overload_kinds: tuple[Kind, ...] = (Kind.TEXT, Kind.IMAGE)
    distinct: int = 64  # inputs that are sent in turn

    @property
    def clip(self) -> Path:
        return clip_folder(self.shape, vocabulary=self.vocabulary)

    def ret2(self, fusion: Fusion = RET2) -> Path:
        return ret2_folder(self.shape, fusion, vocabulary=self.vocabulary)


FULL = Plan()
QUICK = Plan(
    rounds=2, seconds=3.0, warm_up_s=1.0, overload_s=15.0, search_s=15.0, documents=1500, overload_kinds=(Kind.TEXT,)
)
# Seconds in all, figures without meaning: that every line runs.
SMOKE = Plan(
    shape="toy",
    rounds=2,
    seconds=0.5,
    warm_up_s=0.2,
    overload_s=2.0,
    search_s=3.0,
    documents=128,
    connections=(1, 4),
    peer_connections=(1, 4),
    distinct=8,
)
