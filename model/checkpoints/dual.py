"""Reading dual encoders: models whose towers give one vector of a text and one of an image, in one space."""

from __future__ import annotations

from model.checkpoints.weights import read_config
from model.dual_encoder import read_dual_encoder
from model.errors import InvalidInput
from model.everyday import MODEL_TYPE as CONSE
from model.everyday import read_everyday
from model.parts import Location, Parts
from model.towers.features import DUAL_ENCODERS


def is_dual(location: Location) -> bool:
    return read_config(location.folder).get("model_type") in (*DUAL_ENCODERS, CONSE)


def read_dual(location: Location) -> Parts:
    """Read a dual encoder. Raises `InvalidInput` for a model of another kind."""
    raw = read_config(location.folder)
    model_type = raw.get("model_type")
    if model_type in DUAL_ENCODERS:
        return read_dual_encoder(location, raw)
    if model_type == CONSE:
        return read_everyday(location, raw)
    raise InvalidInput(
        f"{location.name} is a {model_type}, expected a dual encoder: {', '.join((*DUAL_ENCODERS, CONSE))}",
        field="model",
        value=model_type,
    )
