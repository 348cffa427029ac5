"""What can be added to the score of a hit: for fulfilling a filter, for a number, for being near a number or a time."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from indexer.domain.bodies import Wire, examples
from indexer.domain.samples import IN_EUROPE
from indexer.filters.values import is_number, read_moment
from service.schemas.base import FieldName, FilterTree, finite

MAX_BOOSTS = 16

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])", re.ASCII)

Weight = Annotated[float, AfterValidator(finite), Field(description="what is added; below 0 it is taken away")]


def duration_s(text: str) -> float | None:
    """Return the seconds of a duration such as 30d, None for any other text."""
    read = _DURATION.fullmatch(text)
    return None if read is None else float(read[1]) * _UNITS_S[read[2]]


class BoostFilterIn(Wire):
    """The weight, for documents that fulfil a filter."""

    model_config = ConfigDict(json_schema_extra=examples({"filter": IN_EUROPE, "weight": 0.1}))

    filter: FilterTree = Field(description="which documents")
    weight: Weight


class BoostFieldIn(Wire):
    """The weight times the number in a field, of a list its greatest; nothing for documents without one."""

    model_config = ConfigDict(json_schema_extra=examples({"field": "area_km2", "weight": 1e-8}))

    field: FieldName = Field(description="a metadata field of numbers")
    weight: Weight


class BoostDecayIn(Wire):
    """The weight times what is left of 1 at the distance of a field from `origin`: a half at `scale`."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"field": "adopted", "decay": "exp", "scale": "3650d", "origin": "2000-01-01", "weight": 0.2},
            {"field": "area_km2", "decay": "gauss", "scale": 1000.0, "origin": 0.0, "weight": 0.2},
        )
    )

    field: FieldName = Field(description="a metadata field of times or numbers; of a list, the nearest")
    decay: Literal["exp", "gauss", "linear"] = Field(
        description="how it falls: by halves each `scale`, as a bell curve, or straight to 0 at twice `scale`"
    )
    scale: float | str = Field(
        description="the distance of a half: a number, or for times a duration in s, m, h, d or w, such as 30d",
        examples=["30d"],
    )
    origin: float | str | None = Field(
        None, description="where it is whole: a number, or a time; by default now, for times", examples=["2026-01-01"]
    )
    weight: Weight

    @model_validator(mode="after")
    def _check_scale(self) -> BoostDecayIn:
        scale_s = duration_s(self.scale) if isinstance(self.scale, str) else self.scale
        if scale_s is None:
            raise ValueError(f"scale is {self.scale!r:.40}: give a number, or a duration such as 30d, 12h or 90m")
        if not 0 < scale_s < float("inf"):
            raise ValueError(f"scale is {self.scale!r:.40}, it must be above 0")
        if isinstance(self.scale, str):
            if self.origin is not None and (not isinstance(self.origin, str) or read_moment(self.origin) is None):
                raise ValueError(
                    "scale is a duration, so origin must be a time such as 2026-01-01T12:00:00Z, or left out"
                )
        elif not is_number(self.origin) or not abs(self.origin) < float("inf"):
            raise ValueError("scale is a number, so origin must be a number")
        return self


def _form(value: object) -> str:
    keys = value.keys() if isinstance(value, dict) else vars(value).keys() if isinstance(value, Wire) else ()
    return "<filter>" if "filter" in keys else "<decay>" if {"decay", "scale", "origin"} & set(keys) else "<field>"


BoostIn = Annotated[
    Annotated[BoostFilterIn, Tag("<filter>")]
    | Annotated[BoostFieldIn, Tag("<field>")]
    | Annotated[BoostDecayIn, Tag("<decay>")],
    Discriminator(_form),
]
