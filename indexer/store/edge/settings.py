"""The settings of the embedded store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from model.settings import setting

Quantization = Literal["none", "scalar"]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """How the graphs of an embedded index are built."""

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
