"""Settings of a part, declared once, in the part's own dataclass: the default, the bounds, and what an operator reads.

    @dataclass(frozen=True, slots=True)
    class FetchSettings:
        timeout_s: float = setting(10.0, "fetch_timeout_s", "fetching one URL, redirects included", gt=0)

`service.settings` composes them: `RET2_FETCH_TIMEOUT_S` and `--fetch-timeout-s` set the field above. Code that builds
the dataclass itself passes what it likes; bounds are for operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints

_KEY = "setting"


@dataclass(frozen=True, slots=True)
class DeclaredSetting:
    """A field of a part that an operator can set."""

    # As in the environment, without its prefix and in lower case.
    name: str
    field: str
    kind: Any
    default: Any
    description: str
    # Keyword arguments of `pydantic.Field`.
    bounds: Mapping[str, Any]


def setting(default: Any, name: str, description: str, **bounds: Any) -> Any:
    """Declare a field of a dataclass as a setting."""
    return field(default=default, metadata={_KEY: (name, description, bounds)})


def declared_settings(part: type) -> tuple[DeclaredSetting, ...]:
    """Return the settings of a part in the order of its fields. Requests read parts of the settings, and evaluating the
    types of one takes 0.2 ms, so each part is read once."""
    return _declarations(part)


@cache
def _declarations(part: type) -> tuple[DeclaredSetting, ...]:
    kinds = get_type_hints(part)
    return tuple(
        _declared(part_field, kinds[part_field.name]) for part_field in fields(part) if _KEY in part_field.metadata
    )


def _declared(declared: Field[Any], kind: Any) -> DeclaredSetting:
    name, description, bounds = declared.metadata[_KEY]
    return DeclaredSetting(name, declared.name, kind, declared.default, description, bounds)
