"""`ret2 models`: which models there are, and what one of them is. Commands that load a model import torch when they
run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from model.checkpoints.known import BUNDLED_MODELS, PUBLISHED_MODELS, KnownModel
from model.errors import InvalidInput
from service.client.client import DEFAULT_URL, Client

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

models_app = typer.Typer(
    help="Models: what is bundled, downloaded, known to work and served; download, check, describe one."
)
_WIDTH = 140  # into a file or a pipe, where nobody says how wide it is

Source = Annotated[str, typer.Argument(help="a folder, bundled:NAME, or hub:ORG/NAME with @COMMIT or @TAG")]


@models_app.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the models that are bundled, downloaded, and published in a supported format."""
    if context.invoked_subcommand is not None:
        return
    typer.echo("Bundled:")
    for model in BUNDLED_MODELS:
        typer.echo(_lines(model))
    typer.echo("\nDownloaded:")
    for line in _downloaded():
        typer.echo(line)
    typer.echo("\nPublished, of a format that is tested with small models of random weights:")
    for model in PUBLISHED_MODELS:
        typer.echo(_lines(model))


@models_app.command()
def served(
    url: Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")
    ] = None,
) -> None:
    """List the models of a running service, its default first."""
    with Client(url, api_key=api_key) as client:
        models = client.info().models
    table = Table("model", "state", "dimensions", "embeds", "text tokens", "image px", "fingerprint")
    for model in models:
        facts = (model.dimensions, " and ".join(model.modalities or ()), model.max_text_tokens, model.image_size_px)
        cells = ["" if fact is None else str(fact) for fact in facts]
        table.add_row(model.name, model.state, *cells, (model.fingerprint or "")[:12])
    _console().print(table)
    for model in models:
        if model.detail:
            typer.echo(f"{model.name}: {model.detail}")


@models_app.command()
def pull(source: Annotated[str, typer.Argument(help="hub:ORG/NAME, with @COMMIT or @TAG to pin it")]) -> None:
    """Download a model from the hub, or what a branch or tag of it means now. Prints its pinned name and folder."""
    from model.checkpoints import hub
    from model.checkpoints.kinds import read_checkpoint_config, reader_of

    name = source.removeprefix("hub:")
    if name == source and not hub.is_name(name.partition("@")[0]):
        raise InvalidInput(f"{source!r} is no model of the hub: name it as hub:ORG/NAME", field="source", value=source)
    location = hub.fetch(name, renew=True)
    reader_of(location, read_checkpoint_config(location))
    typer.echo(f"hub:{location.name}@{location.commit}")
    typer.echo(str(location.folder))


@models_app.command()
def verify(source: Source) -> None:
    """Load a model and try it: golden outputs beside it must be met to 1e-5, embeddings must be sound. Exit status 1 if
    anything is not so."""
    from model.checkpoints.sources import find
    from model.evaluation.golden import GOLDEN_FILE
    from model.evaluation.golden import verify as compare
    from model.evaluation.self_check import self_check
    from model.retriever import Retriever

    folder = find(source).folder
    console, passed = _console(), True
    if (folder / GOLDEN_FILE).exists():
        from model.evaluation.golden import TOLERANCE

        table = Table("output", "shape", "largest difference", f"≤ {TOLERANCE:g}")
        for item in compare(folder):
            table.add_row(item.output, str(item.shape), f"{item.largest:.2e}", "yes" if item.passed else "NO")
            passed = passed and item.passed
        console.print(table)
    retriever = Retriever.load(source)
    if retriever.preprocessor.reads_text:
        table = Table("check", "result", "as it must be")
        for check in self_check(retriever):
            table.add_row(check.name, check.outcome, "yes" if check.passed else "NO")
            passed = passed and check.passed
        console.print(table)
    if not passed:
        raise typer.Exit(1)


@models_app.command()
def describe(source: Source) -> None:
    """Load a model and print what it is: dimensions, limits, size, commit and fingerprint."""
    from model.checkpoints.kinds import read_checkpoint_config
    from model.checkpoints.sources import find
    from model.checkpoints.weights import weight_files
    from model.retriever import Retriever

    location = find(source)
    kind = read_checkpoint_config(location).get("model_type", "ret2")
    retriever = Retriever.load(source)
    info, config = retriever.info, retriever.config
    files = weight_files(location.folder)
    weights = getattr(config, "weights", None)
    parameters = sum(value.numel() for value in retriever.parameters())
    rows = {
        "name": info.name,
        "kind": str(kind),
        "folder": str(location.folder),
        "commit": info.commit or "",
        "weights": f"{_size(sum(path.stat().st_size for path in files))} in {len(files)} file{'s' * (len(files) > 1)}",
        "parameters": f"{parameters / 1e6:,.1f} million, its towers included",
        "dimensions": str(info.dimensions),
        "vectors of one input": str(info.latents),
        "text": f"{info.max_text_tokens} tokens",
        "image": f"{info.image_size_px} px",
        "text and image": f"weighted sum, text {weights.text:g}, image {weights.image:g}"
        if weights
        else "by the model",
        "fingerprint": info.fingerprint,
    }
    for name, value in rows.items():
        if value:
            typer.echo(f"{name:<22}{value}")


def _lines(model: KnownModel) -> str:
    """Return the lines of a model. Its source stands on a line of its own, so that it can be copied from a terminal of
    any width."""
    facts = (
        model.kind,
        _size(model.size_bytes),
        f"{model.dimensions} dimensions",
        model.licence,
        model.languages,
        model.note,
    )
    return f"  {model.source}\n      {', '.join(fact for fact in facts if fact)}"


def _downloaded() -> Iterator[str]:
    """Yield the models in the hub's cache on this machine, including kinds that are not served, because a cell may be
    built on them."""
    import huggingface_hub

    from model.checkpoints.hub import cached

    repositories: Iterable[CachedRepoInfo] = ()
    with suppress(huggingface_hub.CacheNotFound):
        repositories = huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE).repos
    models = sorted(
        (repository for repository in repositories if repository.repo_type == "model"),
        key=lambda repository: repository.repo_id,
    )
    if not models:
        yield "  none (ret2 models pull hub:ORG/NAME)"
    for repository in models:
        for revision in sorted(repository.revisions, key=lambda revision: revision.last_modified):
            complete = cached(repository.repo_id, revision.commit_hash) is not None
            facts = (
                *sorted(revision.refs),
                _size(revision.size_on_disk),
                "" if complete else "not complete: ret2 models pull",
            )
            yield f"  hub:{repository.repo_id}@{revision.commit_hash}"
            yield f"      {', '.join(fact for fact in facts if fact)}"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{max(count, 1) / 1e6:.0f} MB"
