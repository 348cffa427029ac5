"""`ret2 reindex COLLECTION`: begins one and follows it, or rolls back, cancels or finishes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from indexer.domain.jobs import JobState
from model.errors import InvalidInput
from service.cli.tables import failures_table, progress_bar
from service.client.client import DEFAULT_URL, Client
from service.client.types import Job, Reindex


class Order(StrEnum):
    START = "start"
    STATUS = "status"
    CANCEL = "cancel"
    ROLLBACK = "rollback"
    FINISH = "finish"


def reindex(
    collection: Annotated[str, typer.Argument(help="which collection")],
    order: Annotated[
        Order,
        typer.Argument(help="status: where it is; cancel: before the switch; rollback, finish: after it"),
    ] = Order.START,
    model: Annotated[
        str | None, typer.Option(help="name or fingerprint of a served model; unset: the only other one")
    ] = None,
    max_failures: Annotated[
        int, typer.Option(min=0, help="documents that the new model may fail to embed; with more of them it waits")
    ] = 0,
    wait: Annotated[bool, typer.Option(help="follow it to its end; stopping that does not stop the reindex")] = True,
    url: Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")
    ] = None,
) -> None:
    """Embed a collection again with another model, while it is searched and written to, and switch to that."""
    if order is not Order.START and (model is not None or max_failures):
        raise InvalidInput(f"--model and --max-failures are for a start, not for {order}")
    with Client(url, api_key=api_key) as client:
        match order:
            case Order.START:
                _follow(client, client.reindex(collection, model=model, max_failures=max_failures), wait=wait)
            case Order.CANCEL:
                _follow(client, client.cancel_reindex(collection), wait=wait)
            case Order.STATUS:
                _print(client.generations(collection))
            case Order.ROLLBACK:
                _print(client.roll_back_reindex(collection))
            case Order.FINISH:
                _print(client.finish_reindex(collection))


def _follow(client: Client, job: Job, *, wait: bool) -> None:
    console = Console()
    if not wait:
        console.print(f"job {job.id} is {job.state}")
        return
    last_waiting_on = None
    with progress_bar() as bar:
        task = bar.add_task(job.collection, total=job.accepted)

        def on_progress(now: Job) -> None:
            nonlocal last_waiting_on
            bar.update(task, total=now.accepted, completed=now.accepted - now.left)
            if now.waiting_on != last_waiting_on and not now.state.finished:
                bar.console.print(Text(f"waits: {now.waiting_on}" if now.waiting_on else "goes on"))
            last_waiting_on = now.waiting_on

        done = client.wait_job(job.id, timeout_s=float("inf"), on_progress=on_progress)
    console.print(f"{done.state}: {done.indexed} embedded, {done.skipped} skipped, {done.failed} failed")
    if done.failed:
        failures = [(failure.id, failure.code, failure.detail) for failure in client.failures(job.id)]
        console.print(failures_table(failures))
    if done.state is JobState.FAILED:
        console.print(Text(done.waiting_on or ""))
        raise typer.Exit(1)


def _print(reindex: Reindex) -> None:
    console = Console()
    for name, generation in (("serves", reindex.serving), (reindex.state, reindex.other)):
        console.print(
            Text(f"{name}: {generation.model} ({generation.fingerprint[:12]}), {generation.dimensions} dimensions")
        )
