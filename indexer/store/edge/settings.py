"""The settings of the embedded store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from model.settings import setting

Quantization = Literal["none", "scalar"]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """How many collections of an embedded index are open, and how their graphs are built."""

    # Each has a thread and some 40 memory maps.
    max_open: int = setting(
        64,
        "max_open_collections",
        "collections that the embedded index has open at a time; the one unused for longest is closed, and its next "
        "search opens it in 20 ms",
        gt=0,
    )

    build_threads: int | None = setting(
        None,
        "index_build_threads",
        "threads of the process that builds the graphs of the embedded index, at the lowest priority; unset: half of "
        "the cores",
        gt=0,
    )
    quantization: Quantization = setting(
        "none",
        "index_quantization",
        "none, or scalar: the graphs of the embedded index keep a byte of each number of a vector in memory, and the "
        "whole vectors on disk, by which candidates are scored again",
    )

    @property
    def threads(self) -> int:
        return self.build_threads or max(1, (os.cpu_count() or 1) // 2)
