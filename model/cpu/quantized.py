"""Graphs in int8: weights and activations, with ranges calibrated on sample inputs.

The only module that imports nncf.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from model.cpu import graph as _telemetry_is_off  # noqa: F401  nncf, too, would report its use
from model.errors import InvalidInput

try:
    import nncf
except ImportError as error:
    raise InvalidInput(
        "precision int8 needs nncf, which calibrates a model once: pip install 'ret2[int8]'", field="precision"
    ) from error


def quantize(graph: Any, samples: Sequence[Sequence[Tensor]]) -> Any:
    """Return a graph whose products are computed in int8. Each sample has the graph's inputs for one row."""
    nncf.set_log_level(logging.ERROR)
    rows = [tuple(value.numpy() for value in sample) for sample in samples]
    return nncf.quantize(graph, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows))
