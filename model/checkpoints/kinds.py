"""The kinds of checkpoints and their readers: the only place that tells kinds of model apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from model.checkpoints import ret2_published, ret_v1
from model.checkpoints.foreign import other_kind, without_config
from model.checkpoints.ret2 import read_own, read_published, read_v1
from model.checkpoints.weights import CONFIG_FILE, read_config
from model.dual_encoder import read_dual_encoder
from model.errors import InvalidInput
from model.everyday import MODEL_TYPE as CONSE
from model.everyday import read_everyday
from model.parts import Location, Parts
from model.towers.features import DUAL_ENCODERS

Reader = Callable[[Location, Mapping[str, Any]], Parts]


def read_checkpoint(location: Location) -> Parts:
    """Read a checkpoint of any supported kind. Raises `InvalidInput` for other folders, saying what they are and what
    to do."""
    raw = read_checkpoint_config(location)
    return reader_of(location, raw)(location, raw)


def read_checkpoint_config(location: Location) -> dict[str, Any]:
    folder = location.folder
    if not (folder / CONFIG_FILE).exists():
        files = sorted(path.relative_to(folder).as_posix() for path in [*folder.glob("*"), *folder.glob("*/*")])
        raise InvalidInput(without_config(str(folder), files), field="model")
    return read_config(folder)


def reader_of(location: Location, raw: Mapping[str, Any]) -> Reader:
    """Return the reader for a checkpoint. Raises `InvalidInput` for a model of another kind."""
    model_type = raw.get("model_type")
    if model_type in DUAL_ENCODERS:
        return read_dual_encoder
    if model_type == CONSE:
        return read_everyday
    if ret_v1.is_v1(raw):
        return read_v1
    if model_type in CONFIG_MAPPING_NAMES:
        raise InvalidInput(other_kind(str(location.folder), model_type), field="model", value=model_type)
    if ret2_published.is_published(raw):
        return read_published
    if model_type != "ret2" and "text" not in raw:
        raise InvalidInput(other_kind(str(location.folder), model_type), field="model", value=model_type)
    return read_own
