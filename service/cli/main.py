"""The `ret2` command. Errors are one line on stderr and exit status 1. Only commands that run a model import torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from indexer.domain.jobs import JobState
from model.errors import InvalidInput, RetrievalError
from service.cli import demo as demonstration
from service.cli.backup import backup, restore
from service.cli.benchmarks import m2kr, mbeir
from service.cli.copies import copies
from service.cli.documents import copy, count, documents, facets, update
from service.cli.evaluation import eval_app
from service.cli.export import export
from service.cli.flags import json_object, settings_from, with_settings
from service.cli.imports import import_files
from service.cli.keys import keys_app
from service.cli.load import load
from service.cli.models import models_app
from service.cli.recall import recall
from service.cli.reindex import reindex
from service.cli.tables import (
    collections_table,
    failures_table,
    hits_table,
    jobs_table,
    progress_bar,
    timings_line,
)
from service.cli.train import train
from service.client.client import DEFAULT_URL, Client
from service.client.types import Hit, Job, SearchMode, SearchResult
from service.settings import Settings

Url = Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")]
ApiKey = Annotated[str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


class _OneLineErrors(TyperGroup):
    """Our own errors are for the user; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RetrievalError as error:
            typer.echo(f"ret2: {error.detail}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Multimodal retrieval as a service: documents and queries of text, an image, or both.",
)


def _print_version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"ret2 {version('ret2')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    pass


@app.command()
@with_settings
def serve(settings: Settings) -> None:
    """Serve HTTP: encoder, index and worker in one process, or one --role of them.

    Every flag is also a variable: --port is RET2_PORT.
    """
    from service.server import serve as run

    run(settings)


@app.command()
def migrate(
    data_dir: Annotated[Path | None, typer.Option(help="of SQLite, where RET2_DATABASE_URL is unset")] = None,
) -> None:
    """Bring the ledger's schema up to date, and exit. Servers do so on start-up; run it before an upgrade."""
    # Here, so that the other commands start without SQLAlchemy and Alembic.
    from indexer.ledger.sql.migrations import newest
    from service.server import migrate as run

    before, where = run(settings_from({} if data_dir is None else {"data_dir": data_dir}))
    to = newest()
    change = f"is at schema {to}" if before == to else f"schema {before or 'none'} -> {to}"
    typer.echo(f"ledger {where}: {change}")


@app.command()
def search(
    collection: Annotated[str, typer.Option("--collection", "-c", help="where to search")],
    question: Annotated[str | None, typer.Argument(help="the text of the query")] = None,
    image: Annotated[str | None, typer.Option("--image", "-i", help="an image file or URL of the query")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="unset: the collection's own, else 10")
    ] = None,
    filter: Annotated[  # noqa: A002 - the flag's name
        str | None, typer.Option(help='condition on metadata: {"field": "region", "equals": "Europe"}')
    ] = None,
    mode: Annotated[
        SearchMode | None, typer.Option(help="by embedding, by words, or both; unset: as the collection has it")
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="rank the nearest again by all their latents")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="say what came from text and what from the image")] = False,
    highlight: Annotated[
        bool, typer.Option("--highlight", help="show the passages with words of the query; modes lexical and hybrid")
    ] = False,
    like: Annotated[list[str] | None, typer.Option(help="id of a document to find more like; may be repeated")] = None,
    unlike: Annotated[
        list[str] | None, typer.Option(help="id of a document to keep away from; may be repeated")
    ] = None,
    avoid: Annotated[list[str] | None, typer.Option(help="a text to keep away from; may be repeated")] = None,
    instruction: Annotated[str | None, typer.Option(help="put before the text; unset: the collection's own")] = None,
    score_threshold: Annotated[float | None, typer.Option(help="no hits below it")] = None,
    cursor: Annotated[str | None, typer.Option(help="as the page before printed it")] = None,
    group_by: Annotated[str | None, typer.Option(help="the best hits of each value of a metadata field")] = None,
    group_size: Annotated[int | None, typer.Option(min=1, help="hits of each group; unset: 1")] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--field", help="show this metadata field alone; may be repeated")
    ] = None,
    sort: Annotated[
        list[str] | None,
        typer.Option(
            help="metadata field to sort by, -FIELD for descending; may be repeated; without a question: lists"
        ),
    ] = None,
    boost: Annotated[
        list[str] | None, typer.Option(help='add to scores: {"field": "popularity", "weight": 0.1}; may be repeated')
    ] = None,
    diversity: Annotated[float, typer.Option(min=0, max=1, help="0 to 1: how unlike each other hits shall be")] = 0.0,
    weights: Annotated[
        str | None, typer.Option(help='of text against image: {"text": 1, "image": 3}; needs both, and such a model')
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Search with a question, a picture, a picture and a question about it, or documents that are there."""
    if question is None and image is None and not like and not sort:
        raise InvalidInput("nothing to search with: give a question, --image, both, --like, or --sort to list")
    remote = image is not None and image.startswith(("http://", "https://", "data:"))
    with Client(url, api_key=api_key) as client:
        result = client.search(
            collection,
            question,
            image if remote or image is None else Path(image),
            limit=limit,
            filter=json_object(filter, "--filter"),
            mode=mode and mode.value,
            rerank=rerank,
            explain=explain,
            highlight=highlight,
            positive=like or (),
            negative=[*(unlike or ()), *({"text": text} for text in avoid or ())],
            instruction=instruction,
            score_threshold=score_threshold,
            cursor=cursor,
            sort=sort or (),
            boost=[json_object(text, "--boost") or {} for text in boost or ()],
            diversity=diversity,
            weights=json_object(weights, "--weights"),
            group_by=group_by,
            group_size=group_size,
            metadata_fields=fields or True,
        )
    if as_json:
        groups = [{"value": group.value, "hits": _hits_json(group.hits)} for group in result.groups or ()]
        _print_json(groups if group_by else _hits_json(result.hits))
    else:
        _print_hits(result, group_by)


def _print_hits(result: SearchResult, group_by: str | None) -> None:
    console = Console()
    if group_by is None:
        console.print(hits_table(result.hits))
    for group in result.groups or ():
        console.print(f"{group_by} = {group.value}", markup=False)
        console.print(hits_table(group.hits))
    console.print(timings_line(result), style="dim")
    if result.cursor:
        console.print(f"more: --cursor {result.cursor}", style="dim", markup=False, soft_wrap=True)


@app.command()
def collections(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the collections."""
    with Client(url, api_key=api_key) as client:
        collections = client.collections()
    if as_json:
        _print_json(
            [
                {"name": collection.name, "documents": collection.documents, "model": collection.model}
                for collection in collections
            ]
        )
        return
    Console().print(collections_table(collections))


@app.command()
def jobs(
    job_id: Annotated[str | None, typer.Argument(help="one job, with its failures; without: the newest jobs")] = None,
    collection: Annotated[str | None, typer.Option("--collection", "-c")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
    cancel: Annotated[bool, typer.Option("--cancel", help="begin nothing more of it")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="a new job of what failed in it")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="follow it to its end; exit status 1 unless all went well")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List the indexing jobs, or show one with what failed and why; cancel it, or try again what failed."""
    console = Console()
    if (cancel or retry or watch) and job_id is None:
        raise InvalidInput("which job? --cancel, --retry and --watch are for one: ret2 jobs ID --cancel")
    if cancel and retry:
        raise InvalidInput("--cancel and --retry are two things: give one of them")
    with Client(url, api_key=api_key) as client:
        if job_id is None:
            console.print(jobs_table(client.jobs(collection=collection, limit=limit)))
            return
        act = client.cancel_job if cancel else client.retry_job if retry else client.job
        job = act(job_id)
        if watch:
            job = _followed(client, job)
        console.print(jobs_table([job]))
        if job.failed:
            failures = [
                (f"#{failure.position} {failure.id}", failure.code, failure.detail)
                for failure in client.failures(job.id)
            ]
            console.print(failures_table(failures))
    if watch and job.state is not JobState.SUCCEEDED:
        raise typer.Exit(1)


def _followed(client: Client, job: Job) -> Job:
    """Show a job's progress, and return the finished job."""
    waits: str | None = None
    with progress_bar() as bar:
        task = bar.add_task(job.collection)
        for now in client.follow_job(job.id):
            job = now
            bar.update(task, total=job.accepted, completed=job.accepted - job.left)
            if job.waiting_on != waits and not job.state.finished:
                bar.console.print(Text(f"waits: {job.waiting_on}" if job.waiting_on else "goes on"))
            waits = job.waiting_on
    return job


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="exit after the searches; non-zero if an expected hit is not first")
    ] = False,
    port: Annotated[
        int, typer.Option(envvar="RET2_PORT", min=1, max=65535, help="another free one if it is taken")
    ] = 8080,
    data_dir: Annotated[Path, typer.Option(envvar="RET2_DATA_DIR")] = Path("data"),
) -> None:
    """Serve, load the bundled benchmark and a few photographs, ask five questions over HTTP, and stay up."""
    if not demonstration.run(once=once, port=port, data_dir=data_dir):
        raise typer.Exit(1)


@app.command()
def mcp(
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="where calls look that name no collection")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="calls may search with image files of this folder; without: with URLs only")
    ] = None,
    http: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="serve on http://127.0.0.1:PORT/mcp instead of standard input and output"),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Offer a running service to assistants as tools of the Model Context Protocol."""
    try:
        from service.mcp_server import mcp_server  # here, so that everything else works without the extra
    except ModuleNotFoundError as error:
        raise InvalidInput("`ret2 mcp` needs the extra mcp: pip install 'ret2[mcp]'") from error
    with Client(url, api_key=api_key) as client:
        server = mcp_server(client, collection=collection, images=images)
        if http is None:
            server.run()
        else:
            server.run("streamable-http", port=http)


app.command()(load)
app.command()(documents)
app.command()(count)
app.command()(facets)
app.command()(update)
app.command()(copy)
app.command()(export)
app.command("import")(import_files)
app.command()(reindex)
app.command()(recall)
app.command()(copies)
app.command()(backup)
app.command()(restore)
app.command()(train)
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
eval_app.command()(m2kr)
eval_app.command()(mbeir)
app.add_typer(eval_app, name="eval")


def _hits_json(hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """Return the hits as the service sent them."""
    return [hit.model_dump(mode="json", exclude_unset=True) for hit in hits]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))
