"""`ret2 keys`: make a key, and see what those of a file may do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from model.errors import InvalidInput
from service.keys import Key, KeyFile, line_of, new_key, prefixes_of, scopes_of

keys_app = typer.Typer(no_args_is_help=True, help="API keys: make one, and list those of a file.")

Words = list[str]


@keys_app.command()
def new(
    name: Annotated[
        str, typer.Option(help="whose it is; in logs and limits. Two keys may share it while one replaces the other")
    ],
    scope: Annotated[Words, typer.Option(help="search, write or admin; several: --scope search,write")],
    collection: Annotated[
        Words | None,
        typer.Option(help="for collections whose names begin so, such as shop-; several as above; unset: all"),
    ] = None,
    from_stdin: Annotated[
        bool,
        typer.Option("--from-stdin", help="hash a key that there is, such as the encoder's, instead of making one"),
    ] = False,
) -> None:
    """Print a line for the file of keys, and on standard error the key itself, which is kept nowhere.

    ret2 keys new --name shop --scope search,write --collection shop- >> api-keys
    """
    key = Key(name, scopes_of(_split(scope)), prefixes_of(_split(collection or [])))
    secret = sys.stdin.readline().strip() if from_stdin else new_key()
    typer.echo(line_of(secret, key))
    if not from_stdin:
        typer.echo(secret, err=True)


@keys_app.command("list")
def list_(
    file: Annotated[Path | None, typer.Argument(envvar="RET2_API_KEYS_FILE", help="the file of keys")] = None,
) -> None:
    """List the names of the keys in a file and what they may do."""
    if file is None:
        raise InvalidInput("which file of keys? name it, or set RET2_API_KEYS_FILE")
    table = Table("name", "scopes", "collections")
    for key in KeyFile(file).keys:
        table.add_row(key.name, ", ".join(sorted(key.scopes)), ", ".join(f"{prefix}*" for prefix in key.prefixes))
    Console().print(table)


def _split(words: Words) -> Words:
    return [part.strip() for word in words for part in word.split(",")]
