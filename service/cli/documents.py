"""`ret2 documents`, `count`, `facets`, `update` and `copy`: documents that are there, read and changed."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console

from indexer.domain.jobs import JobState
from model.errors import InvalidInput
from service.cli.flags import json_object
from service.cli.tables import documents_table, facet_table, failures_table
from service.client.client import DEFAULT_URL, Client
from service.client.types import Rejected, SearchMode


class Content(StrEnum):
    """A part of a document that can be taken away."""

    TEXT = "text"
    IMAGE = "image"


Collection = Annotated[str, typer.Argument(help="the collection, or an alias of it")]
Filter = Annotated[str | None, typer.Option(help='condition on metadata: {"field": "region", "equals": "Europe"}')]
Url = Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")]
ApiKey = Annotated[str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")]


def documents(
    collection: Collection,
    ids: Annotated[list[str] | None, typer.Argument(help="ids of documents; unset: the first ones")] = None,
    filter: Filter = None,  # noqa: A002 - the flag's name
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="how many to show")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON object a line instead of a table")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show documents as they are stored: some by their ids, those that match a filter, or the first ones."""
    with Client(url, api_key=api_key) as client:
        if ids:
            documents = client.get_documents(collection, ids)
        else:
            scrolled = client.scroll(collection, filter=json_object(filter, "--filter"), page=min(limit, 1000))
            documents = list(islice(scrolled, limit))
    if not as_json:
        Console().print(documents_table(documents))
        return
    for document in documents:
        typer.echo(document.model_dump_json(exclude_unset=True))


def count(
    collection: Collection,
    filter: Filter = None,  # noqa: A002 - the flag's name
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Count the documents of a collection, or those that match a filter."""
    with Client(url, api_key=api_key) as client:
        typer.echo(client.count(collection, filter=json_object(filter, "--filter")))


def facets(
    collection: Collection,
    fields: Annotated[list[str], typer.Argument(help="metadata fields")],
    query: Annotated[str | None, typer.Option("--query", "-q", help="count the documents that it ranks first")] = None,
    mode: Annotated[
        SearchMode | None, typer.Option(help="how the query ranks; lexical: documents with its words")
    ] = None,
    score_threshold: Annotated[float | None, typer.Option(help="leave out documents of the query below it")] = None,
    filter: Filter = None,  # noqa: A002 - the flag's name
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="values of a field")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Count the values of metadata fields, of all documents or those of a filter or a query."""
    options = {
        "filter": json_object(filter, "--filter"),
        "limit": limit,
        "mode": mode and mode.value,
        "score_threshold": score_threshold,
    }
    with Client(url, api_key=api_key) as client:
        counted = client.facets(collection, fields, query, **options)
    if as_json:
        typer.echo(counted.model_dump_json())
        return
    console = Console()
    console.print(f"{counted.documents:,} documents")
    for facet in counted.facets:
        console.print(facet_table(facet))


def update(
    collection: Collection,
    ids: Annotated[list[str] | None, typer.Argument(help="ids of documents; or give --filter")] = None,
    metadata: Annotated[
        str | None, typer.Option(help='fields to set, null removes one: {"price": 99, "note": null}')
    ] = None,
    remove: Annotated[
        list[Content] | None, typer.Option(help="take the text or the images away; the rest is embedded again")
    ] = None,
    filter: Filter = None,  # noqa: A002 - the flag's name
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Change metadata of documents by their ids or by a filter, and wait until it is done. Nothing is embedded again,
    unless a part of a document is removed."""
    patch = json_object(metadata, "--metadata")
    condition = json_object(filter, "--filter")
    if patch is None and not remove:
        raise InvalidInput("nothing to change: give --metadata, or --remove text or image")
    if remove and condition is not None:
        raise InvalidInput("--remove is for documents by their ids, not for --filter")
    if bool(ids) == (condition is not None):
        raise InvalidInput("which documents? Give ids, or --filter")
    refused: tuple[Rejected, ...] = ()
    with Client(url, api_key=api_key) as client:
        if condition is not None:
            jobs = [client.update_matching(collection, condition, patch or {})]
        else:
            change = {"metadata": patch or {}} | {part.value: None for part in remove or ()}
            posted = client.update_documents(collection, [{"id": key, **change} for key in ids or ()])
            jobs = [part.job for part in posted if part.job is not None]
            refused = tuple(rejection for part in posted for rejection in part.rejected)
        jobs = [client.wait_job(job.id) for job in jobs]
        failures = [failure for job in jobs if job.failed for failure in client.failures(job.id)]
    failed = [(rejection.id or "", rejection.code, rejection.detail) for rejection in refused]
    failed += [(failure.id, failure.code, failure.detail) for failure in failures]
    console = Console()
    changed, unchanged = sum(job.indexed for job in jobs), sum(job.skipped for job in jobs)
    console.print(f"{changed} changed, {unchanged} as before, {len(failed)} failed")
    if failed:
        console.print(failures_table(failed))
    if failed or any(job.state is not JobState.SUCCEEDED for job in jobs):
        raise typer.Exit(1)


def copy(
    collection: Collection,
    to: Annotated[str, typer.Argument(help="a new collection, or a present one of the same model")],
    filter: Filter = None,  # noqa: A002 - the flag's name
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Copy documents to another collection with their embeddings, and wait until it is done."""
    with Client(url, api_key=api_key) as client:
        job = client.copy_collection(collection, to, filter=json_object(filter, "--filter"))
        job = client.wait_job(job.id)
        failures = [(failure.id, failure.code, failure.detail) for failure in client.failures(job.id)]
    console = Console()
    console.print(f"{job.indexed} copied, {job.skipped} as before or gone, {job.failed} failed")
    if failures:
        console.print(failures_table(failures))
    if job.state is not JobState.SUCCEEDED:
        raise typer.Exit(1)
