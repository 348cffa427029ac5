"""Operations of the ledger: written as blocking methods, awaited by their callers, run in the ledger's own threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeVar, overload

from indexer.ledger.sql.database import Database

P = ParamSpec("P")
T = TypeVar("T")
Part_ = TypeVar("Part_", bound="Part")


class Part:
    """A subject of the ledger, such as its jobs or its batches, over the one database."""

    def __init__(self, database: Database) -> None:
        self._database = database


class BoundOperation(Generic[P, T]):
    """An operation of one part of a ledger.

    Awaiting a call runs it in a thread of the ledger, with the context of the caller. `blocking` runs the same code in
    the thread of the caller: for operations that are made of others, and for tests.
    """

    def __init__(self, database: Database, method: Callable[P, T]) -> None:
        self._database = database
        self.blocking = method

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.run(self.blocking, *args, **kwargs)


class Operation(Generic[Part_, P, T]):
    """A descriptor that binds a blocking method to a `Part`."""

    def __init__(self, method: Callable[Concatenate[Part_, P], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, part: None, owner: type[Part_]) -> Operation[Part_, P, T]: ...
    @overload
    def __get__(self, part: Part_, owner: type[Part_]) -> BoundOperation[P, T]: ...
    def __get__(self, part: Part_ | None, owner: type[Part_]) -> BoundOperation[P, T] | Operation[Part_, P, T]:
        if part is None:
            return self
        return BoundOperation(part._database, partial(self._method, part))


def operation(method: Callable[Concatenate[Part_, P], T]) -> Operation[Part_, P, T]:
    """Decorate a blocking method of a `Part` so that its callers await it."""
    return Operation(method)
