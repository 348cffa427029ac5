"""What a training run can be told, as frozen dataclasses: `ret2 train` has an option for each field. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Backbones = Literal["none", "text", "vision", "both"]
EPOCHS = 10.0  # passes over the pairs
Variant = Literal["ret2-atlas", "cell", "last-layer", "sum"]


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line describes and bounds a field."""

    help: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class PairsOptions:
    """Your own pairs, and how they are read."""

    data: Annotated[Path | None, Option(".jsonl or .parquet of pairs; without: the atlas training split")] = None
    validation: Annotated[Path | None, Option("pairs to validate with; without: a share of --data")] = None
    validation_share: Annotated[
        float, Option("of --data, chosen by a hash of the query; 0: no validation; without: 0.05", least=0.0, most=0.5)
    ] = 0.05
    images: Annotated[Path | None, Option("folder that image paths start from; without: the file's own")] = None
    strict: Annotated[bool, Option("end at the first bad row instead of leaving it out")] = False


@dataclass(frozen=True, slots=True)
class StartOptions:
    """The model that a run begins with: a checkpoint, or a fresh cell over two backbones."""

    start_from: Annotated[
        str | None,
        Option(
            "any served model: bundled:everyday (what --data starts with), a folder, hub:ORG/NAME, bundled:atlas; to a "
            "dual encoder a fresh cell is added"
        ),
    ] = None
    backbone: Annotated[
        str | None,
        Option("a fresh cell over both towers of this model: folder:PATH, package:NAME/FOLDER, hub:ORG/NAME"),
    ] = None
    text_backbone: Annotated[str | None, Option("the same, for the text tower alone")] = None
    vision_backbone: Annotated[str | None, Option("the same, for the vision tower alone")] = None
    global_features: Annotated[
        bool, Option("add what the towers say of a whole text and image to a cell that does without")
    ] = False
    text_layers: Annotated[str | None, Option("tapped blocks, such as 3,7,11; without: early, middle, last")] = None
    vision_layers: Annotated[str | None, Option("as many as of text")] = None
    hidden_size: Annotated[int, Option("of a fresh cell; without: 256", least=8)] = 256
    output_size: Annotated[int, Option("of a fresh model's vectors; without: 256", least=8)] = 256
    num_heads: Annotated[int, Option("of a fresh cell; without: 4", least=1)] = 4
    num_latents: Annotated[int, Option("of a fresh cell; without: 4", least=1)] = 4
    max_text_tokens: Annotated[int | None, Option("of a fresh model; without: the tower's, at most 128", least=4)] = (
        None
    )
    variant: Annotated[
        Variant, Option("without --data: ret2-atlas, or a part or ablation of it: cell, last-layer, sum")
    ] = "ret2-atlas"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that changes what a run learns.

    `batch_size` counts over all processes, `chunk_size` is what one of them has in memory at once.
    """

    steps: Annotated[int, Option("updates, instead of --epochs", least=1)] = 1000
    epochs: Annotated[float, Option("passes over the pairs; without: 10 (atlas: 3000 steps)", least=0.01)] = EPOCHS
    batch_size: Annotated[int, Option("pairs an update, over all processes; without: 64 (atlas: 160)", least=2)] = 64
    chunk_size: Annotated[
        int,
        Option("inputs in memory at once (GradCache); does not change the gradient; without: 64 (atlas: 512)", least=1),
    ] = 64
    negatives: Annotated[int, Option("of a pair's hard negatives, how many a step; without: 1", least=0)] = 1
    keep_both: Annotated[
        float,
        Option(
            "share of text+image inputs that keep both; below 1 teaches text and image alone; without: 1 (atlas: 0.5)",
            least=0.0,
            most=1.0,
        ),
    ] = 1.0
    train_backbones: Annotated[Backbones, Option("which towers learn too; trained ones go into the checkpoint")] = (
        "none"
    )
    learning_rate: Annotated[float, Option("without: 3e-4 from a checkpoint, 1e-3 for a fresh cell", least=0.0)] = 3e-4
    backbone_learning_rate: Annotated[float, Option("of towers that learn; without: 1e-5", least=0.0)] = 1e-5
    warmup_steps: Annotated[int, Option("without: a tenth of the steps, at most 100 (atlas: 60)", least=0)] = 0
    weight_decay: Annotated[float, Option("of matrices; without: 0.02", least=0.0)] = 0.02
    averaging: Annotated[
        float,
        Option(
            "how much of the weights' moving average a step leaves; the average is what is validated and kept; "
            "without: 0, none (atlas: 0.998)",
            least=0.0,
            most=0.9999,
        ),
    ] = 0.0
    temperature: Annotated[float, Option("of the loss at the start; it is learnt; without: 0.07", least=0.01)] = 0.07
    seed: Annotated[int, Option("of shuffling, dropout and fresh weights; without: 17")] = 17
    apart: Annotated[
        bool,
        Option(
            "the cell and its global features learn each by a loss of its own, and are added at gate 1; without: a "
            "gate that is learnt (the bundled model: apart)"
        ),
    ] = False
    precision: Annotated[Precision, Option("auto: bf16 where it is fast")] = "auto"
    eval_every: Annotated[
        int, Option("steps between validations; without: an epoch, at most 100 (atlas: 100)", least=1)
    ] = 100
    validation_pool: Annotated[
        int,
        Option("documents that a validation question's own must beat, where the data has them; without: 1000", least=1),
    ] = 1000

    @property
    def train_text(self) -> bool:
        return self.train_backbones in ("text", "both")

    @property
    def train_vision(self) -> bool:
        return self.train_backbones in ("vision", "both")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What does not change the updates that a run makes."""

    output: Annotated[
        Path | None,
        Option("folder of the run; an unfinished one is continued; without: runs/ and the name of --data or --variant"),
    ] = None
    fresh: Annotated[bool, Option("start again, even if the folder has an unfinished run")] = False
    patience: Annotated[
        int | None,
        Option("stop after so many validations without a better one; 0: go on; without: 5 (atlas: 0)", least=0),
    ] = None
    device: Annotated[str | None, Option("cpu, cuda; without: cuda where there is one")] = None
    cache_gib: Annotated[float, Option("memory for states of frozen towers, a process; without: 4", least=0.0)] = 4.0
    self_contained: Annotated[bool, Option("frozen towers go into the checkpoint too")] = False
