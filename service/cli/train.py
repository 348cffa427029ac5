"""`ret2 train`: fine-tune on your own pairs with --data; without it, make ret2-atlas from the atlas training split.

It imports torch when it runs, so that other commands start without it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

from model.cpu.primitive_cache import keep_prepared
from model.errors import InvalidInput
from model.training.pairs import Fault
from service.cli.flags import flag

if TYPE_CHECKING:
    from model.training.finetune_run import Outcome

_SHOWN_FAULTS = 20
NOTHING_LEARNT = 3  # exit status of a run whose best checkpoint is the model that it began with
_OWN, _MODEL, _LEARNING, _RUN = "Your own pairs", "What to start with (needs --data)", "Learning", "The run"


class Towers(StrEnum):
    NONE = "none"
    TEXT = "text"
    VISION = "vision"
    BOTH = "both"


class PrecisionChoice(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(help=".jsonl or .parquet of pairs; without: the atlas training split", rich_help_panel=_OWN),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="pairs to validate with; without: a share of --data", rich_help_panel=_OWN)
    ] = None,
    validation_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.5, help="of --data, chosen by a hash of the query; 0: no validation", rich_help_panel=_OWN
        ),
    ] = 0.05,
    images: Annotated[
        Path | None,
        typer.Option(help="folder that image paths start from; without: the file's own", rich_help_panel=_OWN),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="end at the first bad row instead of leaving it out", rich_help_panel=_OWN)
    ] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="a model with a cell: bundled:atlas (what --data starts with), a folder, or hub:ORG/NAME",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="a fresh cell over both towers of this model: folder:PATH, package:NAME/FOLDER, hub:ORG/NAME",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    text_backbone: Annotated[
        str | None, typer.Option(help="the same, for the text tower alone", rich_help_panel=_MODEL)
    ] = None,
    vision_backbone: Annotated[
        str | None, typer.Option(help="the same, for the vision tower alone", rich_help_panel=_MODEL)
    ] = None,
    text_layers: Annotated[
        str | None,
        typer.Option(help="tapped blocks, such as 3,7,11; without: early, middle, last", rich_help_panel=_MODEL),
    ] = None,
    vision_layers: Annotated[str | None, typer.Option(help="as many as of text", rich_help_panel=_MODEL)] = None,
    hidden_size: Annotated[int, typer.Option(min=8, help="of a fresh cell", rich_help_panel=_MODEL)] = 256,
    output_size: Annotated[int, typer.Option(min=8, help="of a fresh model's vectors", rich_help_panel=_MODEL)] = 256,
    num_heads: Annotated[int, typer.Option(min=1, help="of a fresh cell", rich_help_panel=_MODEL)] = 4,
    num_latents: Annotated[int, typer.Option(min=1, help="of a fresh cell", rich_help_panel=_MODEL)] = 4,
    max_text_tokens: Annotated[
        int | None,
        typer.Option(min=4, help="of a fresh model; without: the tower's, at most 128", rich_help_panel=_MODEL),
    ] = None,
    train_backbones: Annotated[
        Towers,
        typer.Option(help="which towers learn too; trained ones go into the checkpoint", rich_help_panel=_LEARNING),
    ] = Towers.NONE,
    steps: Annotated[int | None, typer.Option(min=1, help="instead of --epochs", rich_help_panel=_LEARNING)] = None,
    epochs: Annotated[
        float, typer.Option(min=0.01, help="passes over the pairs of --data", rich_help_panel=_LEARNING)
    ] = 10.0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=2, help="pairs an update, over all processes; without: 64 (atlas: 160)", rich_help_panel=_LEARNING
        ),
    ] = None,
    chunk_size: Annotated[
        int,
        typer.Option(
            min=1, help="inputs in memory at once (GradCache); does not change the gradient", rich_help_panel=_LEARNING
        ),
    ] = 64,
    negatives: Annotated[
        int, typer.Option(min=0, help="of a pair's hard negatives, how many a step", rich_help_panel=_LEARNING)
    ] = 1,
    keep_both: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="share of text+image inputs that keep both; below 1 teaches each alone; without: 1 (atlas: its own)",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="without: 3e-4 from a checkpoint, 1e-3 for a fresh cell (atlas: 1e-3)",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    backbone_learning_rate: Annotated[
        float, typer.Option(min=0.0, help="of towers that learn", rich_help_panel=_LEARNING)
    ] = 1e-5,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="without: a tenth of the steps, at most 100 (atlas: its own)", rich_help_panel=_LEARNING
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0.0, help="of matrices; without: 0.02", rich_help_panel=_LEARNING)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.01, help="of the loss at the start; it is learnt; without: 0.07", rich_help_panel=_LEARNING),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="of shuffling, dropout and fresh weights; without: 17", rich_help_panel=_LEARNING)
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="auto: bf16 where it is fast", rich_help_panel=_RUN)
    ] = PrecisionChoice.AUTO,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda; without: cuda where there is one", rich_help_panel=_RUN)
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="steps between validations; without: an epoch, at most 100 (atlas: 100)", rich_help_panel=_RUN
        ),
    ] = None,
    patience: Annotated[
        int,
        typer.Option(min=0, help="stop after so many validations without a better one; 0: go on", rich_help_panel=_RUN),
    ] = 5,
    cache_gib: Annotated[
        float, typer.Option(min=0.0, help="memory for states of frozen towers, a process", rich_help_panel=_RUN)
    ] = 4.0,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="frozen towers go into the checkpoint too", rich_help_panel=_RUN)
    ] = False,
    variant: Annotated[
        str,
        typer.Option(help="without --data: ret2-atlas, or an ablation: last-layer, sum", rich_help_panel=_RUN),
    ] = "ret2-atlas",
    output: Annotated[
        Path | None,
        typer.Option(
            help="folder of the run; an unfinished one is continued; without: runs/ and the name of --data or "
            "--variant",
            rich_help_panel=_RUN,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="start again, even if the folder has an unfinished run", rich_help_panel=_RUN),
    ] = False,
) -> None:
    """Fine-tune on your own (query, document) pairs; without --data, train ret2-atlas itself.

    Stop and repeat the command at will: it goes on. Exit status 3 says that nothing was learnt.
    Several processes: torchrun --nproc-per-node N -m service train ...
    """
    keep_prepared(1024)  # before the model is imported, which keeps few: a step's products come in some hundred shapes
    named = {"--backbone": backbone, "--text-backbone": text_backbone, "--vision-backbone": vision_backbone}
    trainer_options: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "keep_both": keep_both,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "weight_decay": weight_decay,
        "temperature": temperature,
        "seed": seed,
        "eval_every": eval_every,
    }
    given_names = [name for name in context.params if _is_given(context, name)]
    if data is None:
        taken = {*trainer_options, "start_from", "variant", "output", "fresh"}
        if needless := [flag(name) for name in given_names if name not in taken]:
            raise InvalidInput(f"{', '.join(needless)}: only with --data, pairs to train on", field="data")
        _train_atlas(variant, trainer_options, output or Path("runs") / variant, start_from, fresh)
        return
    if "variant" in given_names:
        raise InvalidInput("--variant: only without --data, for the bundled model", field="variant", value=variant)
    from model.training.distributed import joined
    from model.training.finetune_run import Options, begin, fine_tune, read_data, settings_for
    from model.training.finetuner import best_precision
    from model.training.fresh_config import fresh_config
    from model.training.tensorboard_log import can_log

    folder = output or Path("runs") / data.stem
    sources = _sources(named, start_from)
    with joined(device) as ranks, _Bar(visible=ranks.first) as bar, _stop_asked() as stopped:
        pairs, faults = read_data(
            data, validation, validation_share, image_root=images, strict=strict, report=bar.report
        )
        bar.tell_faults(faults, len(pairs.train) + len(pairs.validation))
        config = sources and fresh_config(
            *sources,
            text_layers=_layers("text-layers", text_layers),
            vision_layers=_layers("vision-layers", vision_layers),
            max_text_tokens=max_text_tokens,
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            output_size=output_size,
            num_heads=num_heads,
            num_latents=num_latents,
        )
        trainer_options |= {
            "chunk_size": chunk_size,
            "negatives": negatives,
            "tower_learning_rate": backbone_learning_rate,
            "train_text": train_backbones in (Towers.TEXT, Towers.BOTH),
            "train_vision": train_backbones in (Towers.VISION, Towers.BOTH),
            "precision": best_precision(ranks.device) if precision is PrecisionChoice.AUTO else precision.value,
        }
        settings = settings_for(len(pairs.train), epochs, trainer_options, fresh=config is not None)
        retriever, origin = begin(start_from or "bundled:atlas", config, folder.name, settings.seed)
        options = Options(folder, patience, fresh, self_contained, int(cache_gib * 2**30))
        bar.say(
            f"{len(pairs.train)} pairs to train on, {len(pairs.validation)} to validate with; {settings.steps} steps "
            "of "
            f"{settings.batch_size} pairs in {settings.precision} on {ranks.world} x {ranks.device.type}"
        )
        outcome = fine_tune(
            retriever, origin, pairs, settings, options, ranks, report=bar.report, say=bar.say, should_stop=stopped
        )
        if ranks.first:
            bar.say(_summary(outcome))
        is_first = ranks.first
    if is_first and not can_log():
        Console().print("no TensorBoard log: pip install 'ret2[train]' brings its writer")
    if outcome.ending != "interrupted" and not outcome.learnt:
        raise typer.Exit(NOTHING_LEARNT)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _sources(named: Mapping[str, str | None], start_from: str | None) -> tuple[str, str] | None:
    """Of the text and the vision tower of a fresh model; None to start from a checkpoint."""
    if not any(named.values()):
        return None
    if start_from is not None:
        given_name = next(name for name, value in named.items() if value)
        raise InvalidInput(f"--start-from and {given_name} exclude each other: a checkpoint names its own towers")
    both = named["--backbone"]
    text, vision = named["--text-backbone"] or both, named["--vision-backbone"] or both
    if text is None or vision is None:
        lacking = "text" if text is None else "vision"
        raise InvalidInput(f"a fresh model needs both towers, --{lacking}-backbone is not given")
    return text, vision


def _layers(option: str, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InvalidInput(f"--{option} is {value!r}, expected block numbers from 0, such as 3,7,11", field=option)
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
    """Whether Ctrl-C or SIGTERM has asked for an end, which comes after the step. A second Ctrl-C does not wait."""
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
        """`of` 0: nobody knows how many."""
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


def _train_atlas(variant: str, options: Mapping[str, Any], output: Path, start_from: str | None, fresh: bool) -> None:
    from model.checkpoints.sources import locate
    from model.training.atlas_run import SETTINGS, VARIANTS, train_atlas

    if variant not in VARIANTS:
        raise InvalidInput(f"variant is {variant!r}, known are {', '.join(VARIANTS)}", field="variant", value=variant)
    with _Bar() as bar:

        def report(stage: str, done: int, total: int) -> None:
            if stage.startswith("validation"):
                bar.say(f"step {done}: {stage}")
            else:
                bar.report(stage, done, total)

        outcome = train_atlas(
            VARIANTS[variant],
            replace(SETTINGS, **{key: value for key, value in options.items() if value is not None}),
            output,
            fresh=fresh,
            report=report,
            start_from=None if start_from is None else locate(start_from),
        )
    Console().print(
        f"{outcome.steps} steps, best validation recall@1 {outcome.best_recall:.3f}, checkpoint in {outcome.folder}"
    )
