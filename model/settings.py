"""Settings of a part, declared once, in the part's own dataclass: the default, the bounds, and what an operator reads.

    @dataclass(frozen=True, slots=True)
    class FetchSettings:
        timeout_s: float = setting(10.0, "fetch_timeout_s", "fetching one URL, redirects included", gt=0)

`service.settings` composes them: `RET2_FETCH_TIMEOUT_S` and `--fetch-timeout-s` set the field above. Code that builds
the dataclass itself passes what it likes; bounds are for operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
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


def declared_settings(part: type) -> Iterator[DeclaredSetting]:
    """Yield the settings of a part in the order of its fields."""
    kinds = get_type_hints(part)
    for declared in fields(part):
        if _KEY in declared.metadata:
            name, description, bounds = declared.metadata[_KEY]
            yield DeclaredSetting(name, declared.name, kinds[declared.name], declared.default, description, bounds)
