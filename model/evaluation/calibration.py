"""Inputs by which a model in int8 chooses the ranges of its numbers: bundled texts and pictures."""

from __future__ import annotations

from model.types import Input

_SAMPLES = 96


def calibration_inputs(precision: str) -> list[Input]:
    """Return documents of atlas, evenly over all of them, if the precision needs any."""
    if precision != "int8":
        return []
    # Here, so that an encoder does not import pyarrow for other precisions.
    from model.evaluation.atlas import Atlas

    atlas = Atlas.read()
    step = max(1, len(atlas.documents) // _SAMPLES)
    return [Input(document.text, atlas.images[document.image_id]) for document in atlas.documents[::step]]
