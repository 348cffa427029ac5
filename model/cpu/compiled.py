"""The parts of a model compiled for a CPU: its towers, and what fuses their states, as graphs of OpenVINO.

Nothing here imports transformers: what a later start needs is in the cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.cpu.graph import Graph, read, release_mapped, version
from model.cpu.outline import CompiledConfig, Outline, SideOutline, TowerOutline, read_outline, save_outline
from model.cpu.trunks import TrunkGraph
from model.parts import Location, Parts
from model.score_fusion import FusionWeights, ScoreFusion
from model.states import States
from model.towers.efficientnet import CPU_PASS

if TYPE_CHECKING:
    from model.retriever import Retriever

Inputs = tuple[Tensor, ...]


class Kind(NamedTuple):
    """The modalities that a side reads; each combination has a graph of its own."""

    text: bool
    image: bool

    @property
    def name(self) -> str:
        return "both" if self.text and self.image else "text" if self.text else "image"


_CONFIG = [field.name for field in fields(CompiledConfig)]
KINDS = (Kind(True, False), Kind(False, True), Kind(True, True))


def default_cache() -> Path:
    """Return the folder for what can be made again: `RET2_CACHE_DIR`, or `ret2` among the user's caches."""
    if own := os.environ.get("RET2_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ret2"


def compiled_graph(name: str, graph: Any, precision: str, threads: int, *, shared: bool) -> Graph | TrunkGraph:
    """Compile the graph of a part. What towers of `shared` models have in common is compiled once."""
    make = TrunkGraph if shared and not is_side(name) else Graph
    return make(graph, precision, threads)


def read_compiled(
    location: Location, precision: str, threads: int, folder: Path, *, shared: bool = False
) -> Parts | None:
    """Return the parts of a model as an earlier start compiled them, or None if it has to be read and compiled.
    `folder` is the cache. What towers of `shared` models have in common is compiled once."""
    read_before = read_outline(location, sorted((folder / "graphs").glob(f"*-{_code_version()}")))
    if read_before is None:
        return None
    outline, graphs = read_before

    def graph(name: str, computed_in: str) -> Graph | TrunkGraph:
        computation = read(graphs / f"{file_name(name, precision)}.xml")
        return compiled_graph(name, computation, computed_in, threads, shared=shared)

    # A graph is missing, or damaged.
    with suppress(RuntimeError):
        towers = {
            name: CompiledTower(graph(name, precision_of_part(precision, tower.convolves)), convolves=tower.convolves)
            for name, tower in outline.towers.items()
        }
        sides: dict[str, nn.Module] = {}
        for name, side in outline.sides.items():
            if side.weights is not None:
                sides[name] = ScoreFusion(FusionWeights(**side.weights))
                continue
            kinds = [kind for kind in KINDS if kind.name in side.kinds]
            sides[name] = CompiledSide({kind: graph(f"sides.{name}-{kind.name}", precision) for kind in kinds})
        # Also what other models have mapped: to share a trunk with them reads their weights again.
        release_mapped(graphs.parent)
        with suppress(OSError):
            os.utime(graphs)
        return Parts(
            config=outline.config,
            text_tower=towers["text_tower"],
            vision_tower=towers["vision_tower"],
            sides=sides,
            preprocessor=outline.preprocessor,
            fingerprint=outline.fingerprint,
            document_towers={name: towers[f"document_towers.{name}"] for name in outline.document_towers},
        )
    return None


def keep_outline(retriever: Retriever, location: Location, files: Sequence[Path], folder: Path) -> None:
    """Keep what `read_compiled` needs of a compiled model, which was read from `files`. `folder` is the cache."""
    if outline := _outline_of(retriever):
        save_outline(outline, location, files, graph_folder(retriever, folder))


def _outline_of(retriever: Retriever) -> Outline | None:
    """Return the outline of a compiled model, or None where some of it is a module still."""
    config, preprocessor = retriever.config, retriever.preprocessor
    towers = {name: retriever.get_submodule(name) for name in retriever.tower_names}
    sides: dict[str, SideOutline] = {}
    for name, side in retriever.sides.items():
        if isinstance(side, CompiledSide):
            sides[name] = SideOutline(kinds=side.kinds)
        elif isinstance(side, ScoreFusion):
            sides[name] = SideOutline(weights=asdict(side.weights))
    if (
        len(sides) < len(retriever.sides)
        or any(not isinstance(tower, CompiledTower) or tower.embed is not None for tower in towers.values())
        or type(config.image) is not ImageConfig
        or not preprocessor.reads_text
    ):
        return None
    return Outline(
        config=CompiledConfig(**{name: getattr(config, name) for name in _CONFIG if hasattr(config, name)}),
        fingerprint=retriever.info.fingerprint,
        preprocessor=preprocessor,
        towers={name: TowerOutline(bool(tower.convolves)) for name, tower in towers.items()},
        sides=sides,
    )


class CompiledTower(nn.Module):
    """Token ids or pixels to states, as the tower that it stands for."""

    def __init__(
        self,
        graph: Graph | TrunkGraph,
        *,
        convolves: bool = False,
        embed: Callable[[Tensor | Sequence[Tensor]], Inputs] | None = None,
    ) -> None:
        """`embed` makes the inputs of a NaFlex tower's graph: its positions are interpolated to the shape of each
        image, for which there is no graph."""
        super().__init__()
        self._graph = graph
        self.convolves, self.embed = convolves, embed
        # Feature maps of many images leave the cache, and stay in memory.
        self.images_at_once = CPU_PASS if convolves else None

    def forward(self, values: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> list[Tensor]:
        if self.embed is not None:
            return self._graph(*self.embed(values))
        assert isinstance(values, Tensor)
        if values.dim() == 2:
            return self._graph(values, torch.ones_like(values) if mask is None else mask)
        passes = [self._graph(part) for part in torch.split(values, self.images_at_once or len(values))]
        return passes[0] if len(passes) == 1 else [torch.cat(layer) for layer in zip(*passes, strict=True)]


class CompiledSide(nn.Module):
    """States to latents, as the fusion that it stands for: a graph for each kind of input."""

    def __init__(self, graphs: Mapping[Kind, Graph | TrunkGraph]) -> None:
        super().__init__()
        self._graphs = dict(graphs)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the kinds of inputs that there are graphs for."""
        return tuple(kind.name for kind in self._graphs)

    def forward(self, states: States, contributions: list[Tensor] | None = None) -> Tensor:
        latents, *steps = self._graphs[Kind(states.text is not None, states.vision is not None)](*inputs_of(states))
        if contributions is not None:
            contributions.extend(steps)
        return latents


def inputs_of(states: States) -> Inputs:
    """Return the inputs of a side's graph: the mask where there is a text, then the states of both towers."""
    text = () if states.text is None else (present(states.text_mask), *states.text)
    return (*text, *(states.vision or ()))


def present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def is_side(name: str) -> bool:
    return name.startswith("sides.")


def file_name(name: str, precision: str) -> str:
    """Return the name of a part's graph in the cache. Sides are not quantized."""
    return f"{name}.int8" if precision == "int8" and not is_side(name) else name


def precision_of_part(precision: str, convolves: bool) -> str:
    """Return the precision of one part of a model. Convolutions stay in float32 where the rest is in bfloat16: they
    alone change which documents are found (docs/models.md), and gain less in speed."""
    return "float32" if precision == "bfloat16" and convolves else precision


def graph_folder(retriever: Retriever, folder: Path) -> Path:
    """Return the folder of a model's graphs in the cache."""
    return folder / "graphs" / f"{retriever.info.fingerprint[:24]}-{_code_version()}"


@cache
def _code_version() -> str:
    """Return what a graph depends on beside the model's own files: this package's code and the libraries."""
    digest = hashlib.sha256(f"{version()} {torch.__version__} {version_of('transformers')}".encode())
    package = Path(__file__).parents[1]
    for path in sorted([*package.glob("*.py"), *package.glob("towers/*.py"), *package.glob("cpu/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
