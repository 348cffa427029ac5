"""Query parameters that a call does not have are refused: a misspelt one would be ignored without a word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from model.errors import InvalidInput


class UnknownParameter(InvalidInput):
    """The call has no such query parameter."""

    status = 422
    code = "invalid_request"


def names_of(route: APIRoute) -> frozenset[str]:
    """Return the query parameters of a call, those of its dependencies included."""
    return frozenset(_names(route.dependant))


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _names(dependency)


def check_parameters(query: QueryParams, parameters: Iterable[str]) -> None:
    """Raise `UnknownParameter` for the first unknown parameter, with the nearest known name."""
    names = sorted(parameters)
    for name in query:
        if name not in names:
            nearest = difflib.get_close_matches(name[:60], names, 1, 0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names) or 'none'}"
            raise UnknownParameter(
                f"this call has no query parameter {name!r:.100}: {advice}", field=name[:100], limit=", ".join(names)
            )
