"""What `RET2_MODELS` and `--model` name: a list of models, each with the name it is served by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from model.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The name that a model is served by, and where it comes from: a folder, `bundled:NAME` or `hub:ORG/NAME`."""

    name: str
    source: str


def read_sources(declared: str) -> tuple[ModelSource, ...]:
    """Read a comma-separated list of NAME=SOURCE. A bare SOURCE is served by a name of its own: `bundled:atlas` as
    atlas, a folder by its last part.

    Raises `InvalidInput` for a name that cannot be one, and for two models of one name.
    """
    sources: dict[str, ModelSource] = {}
    for item in filter(None, (item.strip() for item in declared.split(","))):
        source = _read_source(item)
        if (earlier := sources.get(source.name)) is not None:
            raise InvalidInput(
                f"two models have the name {source.name!r}: {earlier.source} and {source.source}. Give one of them "
                "another name, as NAME=SOURCE",
                field="models",
                value=source.name,
            )
        sources[source.name] = source
    if not sources:
        raise InvalidInput("no model is named; for example everyday=bundled:everyday", field="models", value=declared)
    return tuple(sources.values())


def _read_source(item: str) -> ModelSource:
    name, separator, source = item.partition("=")
    if separator and not any(mark in name for mark in "/\\:"):
        name = name.strip()
        if not _is_name(name) or not source.strip():
            raise InvalidInput(
                f"{item!r:.200} is no NAME=SOURCE: a name has letters, digits, '-', '_' and '.', at most 63, and a "
                "source is a folder, bundled:NAME or hub:ORG/NAME",
                field="models",
                value=item[:200],
            )
        return ModelSource(name, source.strip())
    if not _is_name(name := _own_name(item)):
        raise InvalidInput(
            f"{item!r:.200} gives no name to serve it by: name it, as NAME={item:.200}",
            field="models",
            value=item[:200],
        )
    return ModelSource(name, item)


def _own_name(source: str) -> str:
    if source == "bundled":
        return "atlas"
    kind, _, location = source.partition(":")
    path = location if kind in ("bundled", "hub", "package", "folder") and location else source
    if kind == "hub":
        path = path.partition("@")[0]
    return PurePath(path).name


def _is_name(name: str) -> bool:
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    return plain.isascii() and plain.isalnum() and name[0].isalnum() and len(name) <= 63
