"""The Python client for asyncio: the calls of `Client`, each in a thread of its own pool.

async with AsyncClient("http://127.0.0.1:8080") as client:
    result = await client.search("flags", text="the flag of France")
    async for document in client.scroll("flags"): ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, update_wrapper
from itertools import islice
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from service.client.client import DEFAULT_URL, Client

Options = ParamSpec("Options")
Result = TypeVar("Result")

# Calls in flight at once; more wait. As many connections as httpx keeps open.
_THREADS = 20
# Documents and hits that are handed over at once: between two hand-overs the event loop goes round.
_HANDED_OVER = 100


def _awaited(
    call: Callable[Concatenate[Client, Options], Result],
) -> Callable[Concatenate[AsyncClient, Options], Coroutine[Any, Any, Result]]:
    async def awaited(self: AsyncClient, /, *arguments: Options.args, **options: Options.kwargs) -> Result:
        return await self.run(partial(call, self.client, *arguments, **options))

    update_wrapper(awaited, call)
    return awaited


def _iterated(
    call: Callable[Concatenate[Client, Options], Iterator[Result]], handed_over: int = _HANDED_OVER
) -> Callable[Concatenate[AsyncClient, Options], AsyncIterator[Result]]:
    async def iterated(
        self: AsyncClient, /, *arguments: Options.args, **options: Options.kwargs
    ) -> AsyncIterator[Result]:
        items = call(self.client, *arguments, **options)
        while part := await self.run(lambda: list(islice(items, handed_over))):
            for item in part:
                yield item

    update_wrapper(iterated, call)
    return iterated


class AsyncClient:
    """Safe to use from many tasks of one event loop; arguments are those of `Client`. A task that is cancelled leaves
    its request, which ends by itself. `on_posted` and `on_progress` are called in another thread."""

    def __init__(self, url: str = DEFAULT_URL, **options: Any) -> None:
        self.client = Client(url, **options)
        self._threads = ThreadPoolExecutor(_THREADS, "ret2-client")

    async def run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    info = _awaited(Client.info)
    ready = _awaited(Client.ready)
    encode = _awaited(Client.encode)

    search = _awaited(Client.search)
    search_all = _iterated(Client.search_all)
    search_batch = _awaited(Client.search_batch)
    facets = _awaited(Client.facets)

    create_collection = _awaited(Client.create_collection)
    change_collection = _awaited(Client.change_collection)
    collections = _awaited(Client.collections)
    collection = _awaited(Client.collection)
    delete_collection = _awaited(Client.delete_collection)
    copy_collection = _awaited(Client.copy_collection)

    reindex = _awaited(Client.reindex)
    generations = _awaited(Client.generations)
    cancel_reindex = _awaited(Client.cancel_reindex)
    roll_back_reindex = _awaited(Client.roll_back_reindex)
    finish_reindex = _awaited(Client.finish_reindex)
    set_alias = _awaited(Client.set_alias)
    aliases = _awaited(Client.aliases)
    delete_alias = _awaited(Client.delete_alias)

    post_documents = _awaited(Client.post_documents)
    load = _awaited(Client.load)
    document = _awaited(Client.document)
    scroll = _iterated(Client.scroll)
    get_documents = _awaited(Client.get_documents)
    count = _awaited(Client.count)
    image = _awaited(Client.image)
    delete_documents = _awaited(Client.delete_documents)
    patch_document = _awaited(Client.patch_document)
    update_documents = _awaited(Client.update_documents)
    update_matching = _awaited(Client.update_matching)
    import_files = _awaited(Client.import_files)

    jobs = _awaited(Client.jobs)
    job = _awaited(Client.job)
    cancel_job = _awaited(Client.cancel_job)
    retry_job = _awaited(Client.retry_job)
    failures = _iterated(Client.failures)
    # Each change at once.
    follow_job = _iterated(Client.follow_job, handed_over=1)
    wait_job = _awaited(Client.wait_job)

    async def close(self) -> None:
        """Wait for the calls in flight, and close the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
