"""`ret2 train`: learn from your own pairs with --data; without it, make ret2-atlas from the atlas training split.

It imports torch when it runs, so that other commands start without it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from model.errors import InvalidInput
from model.training.pairs import Fault
from model.training.settings import PairsOptions, RunOptions, StartOptions, TrainSettings
from service.cli.flags import flag, with_options

if TYPE_CHECKING:
    from model.config import Ret2Config
    from model.training.data import Data
    from model.training.distributed import Ranks
    from model.training.run import Outcome

_SHOWN_FAULTS = 20
# What a service answers with by default: training on one's own pairs betters that.
_START = "bundled:everyday"
NOTHING_LEARNT = 3  # exit status of a run whose best checkpoint is the model that it began with
_PANELS = {
    "Your own pairs": PairsOptions,
    "What to start with": StartOptions,
    "Learning": TrainSettings,
    "The run": RunOptions,
}
# Of StartOptions, what a fresh cell over two backbones is made of.
_BACKBONES = ("backbone", "text_backbone", "vision_backbone")
_CELL_SIZES = ("hidden_size", "output_size", "num_heads", "num_latents")


@dataclass(frozen=True, slots=True)
class _Command:
    """What the command line said, by the part of the run that it concerns; `learning` is what was given of the
    settings."""

    pairs: PairsOptions
    start: StartOptions
    learning: Mapping[str, Any]
    run: RunOptions

    @property
    def name(self) -> str:
        return self.start.variant if self.pairs.data is None else self.pairs.data.stem


@with_options(_PANELS)
def train(options: dict[str, dict[str, Any]]) -> None:
    """Learn from your own (query, document) pairs; without --data, train ret2-atlas itself.

    Stop and repeat the command at will: it goes on. Exit status 3 says that nothing was learnt.
    Several processes: torchrun --nproc-per-node N -m service train ...
    """
    pairs, start, learning, run = (options[panel] for panel in _PANELS)
    command = _Command(PairsOptions(**pairs), StartOptions(**start), learning, RunOptions(**run))
    _refuse_needless([*pairs, *start], command)
    from model.training.distributed import joined
    from model.training.tensorboard_log import can_log

    with joined(command.run.device) as ranks, _Bar(visible=ranks.first) as bar, _stop_asked() as stopped:
        outcome = _run(command, ranks, bar, stopped)
        if ranks.first:
            bar.say(_summary(outcome))
        is_first = ranks.first
    if is_first and not can_log():
        Console().print("no TensorBoard log: pip install 'ret2[train]' brings its writer")
    if outcome.ending != "interrupted" and not outcome.learnt:
        raise typer.Exit(NOTHING_LEARNT)


def _run(command: _Command, ranks: Ranks, bar: _Bar, stopped: Callable[[], bool]) -> Outcome:
    from model.checkpoints.dual import is_dual
    from model.checkpoints.sources import find
    from model.training import run
    from model.training.data import settings_for
    from model.training.trainer import best_precision

    output = command.run.output or Path("runs") / command.name
    data = _read(command, bar)
    config = _fresh_config(command)
    source = command.start.start_from or _START
    fresh = config is not None or is_dual(find(source))
    apart = config is not None and config.global_features == "added"
    settings = settings_for(data, command.learning, fresh=fresh, apart=apart)
    if settings.precision == "auto":
        settings = replace(settings, precision=best_precision(ranks.device))
    name = output.name if command.pairs.data else command.start.variant
    retriever, origin = run.begin(
        source,
        config,
        name,
        settings.seed,
        global_features=command.start.global_features,
        cell=_cell(command.start),
    )
    bar.say(
        f"{len(data.train)} pairs to train on, {len(data.validation)} to validate with; {settings.steps} steps of "
        f"{settings.batch_size} pairs in {settings.precision} on {ranks.world} x {ranks.device.type}"
    )
    options = replace(command.run, output=output)
    return run.train(
        retriever, origin, data, settings, options, ranks, report=bar.report, say=bar.say, should_stop=stopped
    )


def _read(command: _Command, bar: _Bar) -> Data:
    from model.training.atlas import AtlasData
    from model.training.data import read_data

    if command.pairs.data is None:
        return AtlasData.read()
    data, faults = read_data(command.pairs, bar.report)
    bar.tell_faults(faults, len(data.train) + len(data.validation))
    return data


def _fresh_config(command: _Command) -> Ret2Config | None:
    """Return the configuration of a model with a fresh cell, or None to start from a checkpoint."""
    from model.training.atlas import VARIANTS
    from model.training.fresh_config import fresh_config

    start = command.start
    if command.pairs.data is None:
        return None if start.start_from else VARIANTS[start.variant]
    sources = _sources(start)
    return sources and fresh_config(*sources, max_text_tokens=start.max_text_tokens, **_cell(start))


def _cell(start: StartOptions) -> dict[str, Any]:
    """Return the layers and sizes of a fresh cell."""
    return {
        "text_layers": _layers("text_layers", start.text_layers),
        "vision_layers": _layers("vision_layers", start.vision_layers),
        "intermediate_size": 4 * start.hidden_size,
        **{name: getattr(start, name) for name in _CELL_SIZES},
    }


def _refuse_needless(names: Sequence[str], command: _Command) -> None:
    """Raise `InvalidInput` for options that exclude each other or have no part in what was asked for."""
    if command.pairs.data is not None:
        if "variant" in names:
            raise InvalidInput(
                "--variant: only without --data, for the bundled model", field="variant", value=command.start.variant
            )
        _sources(command.start)  # before the pairs are read, which takes its time
        return
    if needless := [flag(name) for name in names if name not in ("start_from", "global_features", "variant")]:
        raise InvalidInput(f"{', '.join(needless)}: only with --data, pairs to train on", field="data")


def _sources(start: StartOptions) -> tuple[str, str] | None:
    """Return the sources of a fresh model's text and vision tower, or None to start from a checkpoint."""
    named = [name for name in _BACKBONES if getattr(start, name)]
    if not named:
        return None
    if start.start_from is not None:
        raise InvalidInput(f"--start-from and {flag(named[0])} exclude each other: a checkpoint names its own towers")
    text, vision = start.text_backbone or start.backbone, start.vision_backbone or start.backbone
    if text is None or vision is None:
        lacking = "text" if text is None else "vision"
        raise InvalidInput(f"a fresh model needs both towers, --{lacking}-backbone is not given")
    return text, vision


def _layers(name: str, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InvalidInput(f"{flag(name)} is {value!r}, expected block numbers from 0, such as 3,7,11", field=name)
    return tuple(map(int, parts))


def _summary(outcome: Outcome) -> str:
    recalls = ", ".join(f"recall@{k} {outcome.first[k]:.3f} → {outcome.best[k]:.3f}" for k in outcome.best)
    ended = f"{outcome.ending} after {outcome.steps} steps"
    if outcome.ending == "interrupted":
        return f"{ended}; the same command goes on. Best so far in {outcome.folder}"
    if not outcome.learnt:
        return (
            f"{ended}; validation {recalls}. The best checkpoint is that of step 0: nothing was learnt. "
            f"{outcome.folder} holds the model that the run began with"
        )
    return f"{ended}{recalls and f'; validation {recalls}'}. Try it: ret2 serve --model {outcome.folder}"


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C or SIGTERM has asked the run to end after its step. A second Ctrl-C
    does not wait."""
    interrupted = False

    def ask(number: int, _frame: object) -> None:
        nonlocal interrupted
        if interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        interrupted = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Bar:
    """Progress of named stages, and lines above them; with `shown` false, nothing."""

    def __init__(self, *, visible: bool = True) -> None:
        self._shown = visible
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            transient=True,
            disable=not visible,
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a stage; a `total` of 0 means that it is unknown."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total or None)
        self._progress.update(self._tasks[stage], completed=done)

    def say(self, line: str) -> None:
        if self._shown:
            self._progress.console.print(escape(line), highlight=False, soft_wrap=True)

    def tell_faults(self, faults: Sequence[Fault], good: int) -> None:
        for fault in faults[:_SHOWN_FAULTS]:
            self.say(f"left out: {fault.where}: {fault.reason}")
        if faults:
            suffix = f", {len(faults) - _SHOWN_FAULTS} of them not shown" if len(faults) > _SHOWN_FAULTS else ""
            self.say(f"{len(faults)} bad rows left out{suffix}; {good} pairs remain")
