"""`ret2 import URI -c COLLECTION`: has the service read files that it can reach itself, and follows it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from indexer.domain.jobs import JobState
from indexer.imports.mapping import FORMATS
from model.errors import Forbidden, InvalidInput
from service.cli.tables import Failed, failures_table, print_left_out, progress_bar
from service.client.client import DEFAULT_URL, Client
from service.client.types import Job

_PATIENCE_S = 600.0  # an import outlives a restart of the service, and so does who waits for it
_WAIT_S = 7 * 24 * 3600.0
_SHOWN_FAILURES = 50


def import_files(
    uri: Annotated[str, typer.Argument(help="a file, folder or pattern as the service sees it; s3://…, https://…")],
    collection: Annotated[str, typer.Option("--collection", "-c", help="made if it is not there yet")],
    format: Annotated[  # noqa: A002 - the flag's name
        str | None, typer.Option(help=f"unset: by the name. One of {', '.join(FORMATS)}")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--map", help="which field is what: text=caption, image=jpg, id=key, metadata=width,license"),
    ] = None,
    image_root: Annotated[str | None, typer.Option(help="what image paths are relative to")] = None,
    model: Annotated[
        str | None, typer.Option(help="of a new collection, by its name in `ret2 models served`; unset: the default")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="with the same key again it is the same job")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="follow it to its end; stopping that does not stop the import")
    ] = False,
    url: Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")
    ] = None,
) -> None:
    """Index the documents of files that the service reads itself, as its import_roots allow. Prints the job."""
    mapping = mapping_of(fields or ())
    with Client(url, api_key=api_key, attempts=1000, give_up_after_s=_PATIENCE_S) as client:
        with suppress(Forbidden):  # a key that may write but makes no collections: this one is there
            client.create_collection(collection, **({"model": model} if model else {}))
        job = client.import_files(
            collection, uri, format=format, mapping=mapping, image_root=image_root, idempotency_key=idempotency_key
        )
        if not wait:
            typer.echo(job.id)
            return
        with progress_bar() as bar:
            job = client.wait_job(
                job.id, timeout_s=_WAIT_S, on_progress=partial(_show, bar, bar.add_task(uri, total=None))
            )
        failed = _failures(client, job)
    _print(job, failed)
    if job.state is not JobState.SUCCEEDED:
        raise typer.Exit(1)


def mapping_of(fields: list[str] | tuple[str, ...]) -> dict[str, Any] | None:
    """Parse options such as `--map text=caption --map metadata=width,license`. Raises `InvalidInput`."""
    mapping: dict[str, Any] = {}
    for assignment in fields:
        part, _, field = assignment.partition("=")
        if not (part and field):
            raise InvalidInput(
                f"--map is {assignment!r:.100}, it must be like text=caption", field="--map", value=assignment[:100]
            )
        mapping[part] = field.split(",") if part == "metadata" and field != "*" else field
    return mapping or None


def _show(bar: Progress, task: TaskID, job: Job) -> None:
    bar.update(task, total=job.accepted or None, completed=job.indexed + job.skipped + job.failed)


def _failures(client: Client, job: Job) -> list[Failed]:
    failures = islice(client.failures(job.id), _SHOWN_FAILURES) if job.failed else ()
    return [
        (f"{failure.file or ''} #{failure.position} {failure.id}".strip(), failure.code, failure.detail)
        for failure in failures
    ]


def _print(job: Job, failed: list[Failed]) -> None:
    console = Console()
    unfinished = job.accepted - job.indexed - job.skipped - job.failed
    console.print(
        f"{job.indexed} indexed, {job.skipped} skipped, {job.failed} failed"
        + (f", {unfinished} not done" if unfinished else "")
    )
    print_left_out(console, job.progress.left_out if job.progress else {})
    if failed:
        console.print(failures_table(failed))
