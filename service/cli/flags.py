"""Settings as command-line flags, made from the classes that hold them, so that the two cannot come apart.

`RET2_MAX_BODY_BYTES` is `--max-body-bytes`. A flag wins over its variable. Secrets have no flag: other users of the
machine can read a command line.
"""

from __future__ import annotations

import functools
import inspect
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from model.errors import InvalidInput
from service.settings import Settings, all_settings


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Turn a function of the settings into a typer command with one option for each setting."""

    @functools.wraps(command)
    def run(**flags: Any) -> None:
        named = {name: value for name, value in flags.items() if value not in (None, [])}
        command(settings_from(named | {name: ",".join(named[name]) for name in _REPEATED if name in named}))

    parameters = [_parameter(name, field) for name, field in all_settings().items() if not _is_secret(field)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


Given = dict[str, dict[str, Any]]  # by panel, what the command line said of its options


def with_options(panels: Mapping[str, type]) -> Callable[[Callable[[Given], None]], Callable[..., None]]:
    """Turn a function into a typer command with one option for each field of several dataclasses, each class in its own
    panel of the help.

    Each field is annotated with its `model.training.settings.Option`. The command receives what was given and nothing
    else.
    """

    def decorate(command: Callable[[Given], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**flags: Any) -> None:
            command(
                {
                    panel: {part.name: flags[part.name] for part in fields(options) if flags[part.name] is not None}
                    for panel, options in panels.items()
                }
            )

        parameters = [
            _option(name, annotation, panel)
            for panel, options in panels.items()
            for name, annotation in get_type_hints(options, include_extras=True).items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def _option(name: str, annotation: Any, panel: str) -> inspect.Parameter:
    """Return an option whose value is None unless it is given."""
    kind, option = get_args(annotation)
    declared = typer.Option(
        flag(name), help=option.help, min=option.least, max=option.most, rich_help_panel=panel, show_default=False
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declared]
    )


def settings_from(flags: dict[str, Any]) -> Settings:
    """Read the settings: flags have precedence over the environment, the environment over defaults. Raises
    `InvalidInput` naming each wrong setting, but never the value of a secret."""
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise InvalidInput("; ".join(_complaint(complaint) for complaint in error.errors(include_url=False))) from None


def variable(name: str) -> str:
    return f"RET2_{name.upper()}"


# Said more shortly where a process has one thing to do: `ret2 serve --role indexer --concurrency 4`.
_SHORT = {"index_concurrency": "--concurrency"}
# Lists that a flag adds to, once for each: `ret2 serve --model everyday=bundled:everyday --model clip=/models/clip`.
_REPEATED = {"models": "--model"}


def flag(name: str) -> str:
    return _REPEATED.get(name, f"--{name.replace('_', '-')}")


def settings_table() -> str:
    """Return the table of docs/settings.md; a test compares the two."""
    rows = ["| variable | flag | default | |", "|---|---|---|---|"]
    for name, field in all_settings().items():
        shown_flag = "" if _is_secret(field) else f"`{flag(name)}`"
        shown_flag += f", `{_SHORT[name]}`" if name in _SHORT else ""
        shown_flag += ", once for each" if name in _REPEATED else ""
        text = str(field.description).replace("|", "\\|")
        rows.append(f"| `{variable(name)}` | {shown_flag} | {shown_default(field)} | {text} |")
    return "\n".join(rows) + "\n"


def shown_default(field: FieldInfo) -> str:
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "unset" if field.default is None else str(field.default)


def _complaint(error: Any) -> str:
    name = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        # The value stays unsaid: a URL may have a password.
        message = f"it has another form than expected, which is: {all_settings()[name].description}"
    return f"{variable(name)}: {message}" if name else message


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind = _plain(field.annotation)
    declared = f"{flag(name)}/--no-{flag(name)[2:]}" if kind is bool else flag(name)
    text = f"{field.description} (default: {shown_default(field)})"
    short = [_SHORT[name]] if name in _SHORT else []
    option = typer.Option(declared, *short, help=text, show_default=False)
    annotation: Any = Annotated[list[str] | None, option] if name in _REPEATED else Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain(annotation: Any) -> type:
    """Return the bare type: int for `Annotated[int, gt=0] | None`, str for a choice of words."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(option for option in get_args(annotation) if option is not types.NoneType)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        annotation = type(get_args(annotation)[0])
    assert isinstance(annotation, type)
    return annotation


def _is_secret(field: FieldInfo) -> bool:
    return _plain(field.annotation) is SecretStr


def json_object(text: str | None, flag: str) -> dict[str, Any] | None:
    """Read the value of a flag that is a JSON object. Raises `InvalidInput`."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{flag} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{flag} is a JSON {type(value).__name__}, it must be an object")
    return value
