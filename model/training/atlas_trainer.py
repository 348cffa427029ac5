"""Training of cell and adapters over frozen towers: symmetric InfoNCE, modality dropout on both sides, tower states
computed once.

A run is a folder: `config.json` and `model.safetensors` are the best checkpoint so far, `state.safetensors` is what
resuming needs, `run.json` what it must be the same run of (model/training/run_folder.py).
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor, nn

from model.checkpoints.weights import WEIGHTS_FILE, load_strict, read_tensors, save_checkpoint, save_tensors
from model.images.decoding import decode_image
from model.preprocess import image_pixels, normalise_text
from model.ret2 import States
from model.retriever import Retriever
from model.towers.towers import Modality, with_prefix
from model.training.objective import (
    BETAS,
    MAX_LOG_SCALE,
    decay_groups,
    draw_kept,
    drop_modality,
    embed_by_kind,
    has_fast_bfloat16,
    optimizer_tensors,
    restore_optimizer,
    schedule,
    symmetric_cross_entropy,
)
from model.training.pairs import Row as Row
from model.training.run_folder import STATE_FILE
from model.types import Limits, Role


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the document that answers it. Images are keys of the training set's image table.

    How often a group is drawn does not depend on how many pairs it has. Two pairs of one `subject` are about the same
    thing, and of one `subject` and `topic` have the same answer. `query_text_alone` is what is asked when the picture
    is dropped.
    """

    group: str
    subject: str
    topic: str
    query_text: str
    query_text_alone: str
    query_images: tuple[str, ...]
    document_text: str
    document_images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    steps: int = 3000
    batch_size: int = 160
    # Pairs of one subject in a batch. More of them teach to tell a subject's topics apart, but leave fewer subjects to
    # be told apart: on flags 4 gave a validation recall@1 of 0.61 after 100 steps, 2 gave 0.63, 1 gave 0.69.
    topics_per_subject: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 60
    weight_decay: float = 0.02
    averaging: float = (
        0.998  # of the weights that are validated and kept: how much of their average a step leaves; 0: none
    )
    temperature: float = 0.07
    keep_both: float = 0.5  # share of rows, on either side, that keep text and image; the rest keep one of them
    group_shares: tuple[tuple[str, float], ...] = ()  # how often a group of pairs is drawn; 1 where it is not named
    augmentations: int = 4  # versions of each image whose states are cached, the plain one included
    eval_every: int = 100
    seed: int = 17


def _has(row: Row) -> tuple[bool, bool]:
    text, image = row
    return text is not None, image is not None


class StateCache:
    """Tower states of every text and image of a data set, float16, computed once: frozen towers give the same ones at
    each step.

    They stay in one large tensor per layer: tens of thousands of small tensors among the towers' own left ten times
    their size in unusable gaps of the heap, and a batch is taken out with one operation.
    """

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._text_layers: list[Tensor] = []  # (tokens of all texts, Wt)
        self._spans: dict[str, tuple[int, int]] = {}  # first token and number of tokens
        self._image_layers: list[Tensor] = []  # (images x versions, P, Wv)
        self._places: dict[str, int] = {}  # of the plain version, which the others follow
        self._versions = 1

    @torch.inference_mode()
    def add_texts(self, texts: Iterable[str], report: Callable[[int], None]) -> None:
        """All of the data set's, in one call."""
        preprocessor = self._retriever.preprocessor
        tokens = {text: preprocessor.tokens(normalise_text(text, Limits()))[0] for text in dict.fromkeys(texts)}
        ordered = sorted(tokens, key=lambda text: len(tokens[text]))
        room = [
            torch.empty(sum(map(len, tokens.values())), width, dtype=torch.float16) for width in self._widths("text")
        ]
        filled = 0
        for start in range(0, len(ordered), 64):
            batch = ordered[start : start + 64]
            layers, mask = self._retriever.text_states([tokens[text] for text in batch])
            for row, text in enumerate(batch):
                self._spans[text] = filled, len(tokens[text])
                end = filled + len(tokens[text])
                for whole, layer in zip(room, layers, strict=True):
                    whole[filled:end] = layer[row, mask[row]]
                filled = end
            report(len(batch))
        self._text_layers = room

    @torch.inference_mode()
    def add_images(
        self,
        images: Mapping[str, bytes],
        versions: int,
        rng: random.Random,
        report: Callable[[int], None],
        together: int = 1,
    ) -> None:
        """All of the data set's, in one call: `versions` of each image, `together` images in a pass of the tower."""
        config, patches = self._retriever.config.image, self._retriever.vision_tower.patches
        room = [
            torch.empty(len(images) * versions, patches, width, dtype=torch.float16) for width in self._widths("vision")
        ]
        keys = list(images)
        for start in range(0, len(keys), together):
            drawn: list[Image.Image] = []
            for key in keys[start : start + together]:
                plain = decode_image(images[key], Limits())
                drawn += [plain, *(augment(plain, rng) for _ in range(versions - 1))]
            layers = self._retriever.vision_states([image_pixels(image, config) for image in drawn])
            for whole, layer in zip(room, layers, strict=True):
                whole[start * versions : start * versions + len(drawn)] = layer
            report(len(drawn) // versions)
        self._image_layers, self._versions = room, versions
        self._places = {key: place * versions for place, key in enumerate(keys)}

    def states(self, rows: Sequence[Row], rng: random.Random | None) -> States:
        """Rows that all have the same modalities; `rng` draws among an image's versions, None takes the plain one.

        Texts are as long as the longest, and that to a multiple of eight: a product whose shape is new costs the
        preparing of it.
        """
        states = States()
        has_text, has_image = _has(rows[0])
        if has_text:
            starts, lengths = torch.tensor([self._spans[text] for text, _ in rows if text is not None]).T[..., None]
            tokens = torch.arange(-(-int(lengths.max()) // 8) * 8)
            mask = tokens < lengths  # (B, T)
            places = torch.where(mask, starts + tokens, starts)
            states = States([layer[places].float() for layer in self._text_layers], mask)
        if has_image:
            shown_images = torch.tensor(
                [
                    self._places[key] + (rng.randrange(self._versions) if rng else 0)
                    for _, key in rows
                    if key is not None
                ]
            )
            states = States(
                states.text, states.text_mask, [layer[shown_images].float() for layer in self._image_layers]
            )
        return states

    def _widths(self, modality: Modality) -> tuple[int, ...]:
        widths: tuple[int, ...] = self._retriever.tower(modality, Role.QUERY).widths  # type: ignore[assignment]
        return widths


def augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """The same drawing as another hand might place it: another shape, round corners, a little turned, paler or
    stronger, coarser, on another ground."""
    ground = tuple(rng.choice((255, 255, 255, 245, 230, rng.randrange(256))) for _ in range(3))
    stretch = rng.uniform(0.85, 1.18)
    image = image.resize((max(1, round(image.width * stretch)), image.height), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        radius = rng.uniform(0.03, 0.2) * min(image.size)
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius, fill=255)
        image = Image.composite(image, Image.new("RGB", image.size, ground), mask)
    margin = rng.uniform(0.0, 0.25)
    width, height = (round(side * (1 + margin)) for side in image.size)
    canvas = Image.new("RGB", (width, height), ground)
    canvas.paste(image, (rng.randint(0, width - image.width), rng.randint(0, height - image.height)))
    canvas = canvas.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, fillcolor=ground)
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        canvas = enhance(canvas).enhance(rng.uniform(0.75, 1.25))
    return canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.8)))


@dataclass(frozen=True, slots=True)
class Batch:
    queries: list[Row]
    documents: list[Row]
    targets: Tensor  # (B, B) rows sum to 1
    ignored: Tensor  # (B, B) True where a pair is neither right nor wrong


Subjects = Mapping[str, Mapping[str, Sequence[Pair]]]  # by group, by subject


def draw_batch(groups: Subjects, settings: TrainSettings, rng: random.Random) -> Batch:
    """A group, then a subject of it at random, several pairs of each, every side losing text or image now and then."""
    pairs: list[Pair] = []
    subjects = [list(group.values()) for group in groups.values()]
    shares = [dict(settings.group_shares).get(group, 1.0) for group in groups]
    while len(pairs) < settings.batch_size:
        subject = rng.choice(*rng.choices(subjects, shares))
        pairs += rng.sample(subject, min(settings.topics_per_subject, len(subject)))
    pairs = pairs[: settings.batch_size]
    queries, documents = [], []
    kept_parts = [draw_kept(len(pairs), settings.keep_both, rng) for _ in range(2)]
    for pair, of_query, of_document in zip(pairs, *kept_parts, strict=True):
        query_image = rng.choice(pair.query_images)
        other_images = [image for image in pair.document_images if image != query_image] or list(pair.document_images)
        queries.append(drop_modality(pair.query_text, pair.query_text_alone, query_image, of_query))
        documents.append(drop_modality(pair.document_text, pair.document_text, rng.choice(other_images), of_document))
    return Batch(queries, documents, *relevance(pairs, queries, documents))


def relevance(pairs: Sequence[Pair], queries: Sequence[Row], documents: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Targets and ignored pairs, both (B, B).

    Where query and document both have text, only the same (subject, topic) is right. Where either is a picture alone it
    can only mean the subject: the row's own pair is right, other pairs of the subject are left out of the softmax.
    """
    subject = _codes([pair.subject for pair in pairs])
    answer = _codes([f"{pair.subject}\0{pair.topic}" for pair in pairs])
    same_subject, same_answer = subject[:, None] == subject[None], answer[:, None] == answer[None]
    worded = torch.tensor([row[0] is not None for row in queries])[:, None] & torch.tensor(
        [row[0] is not None for row in documents]
    )
    right = same_answer
    ignored = same_subject & ~worded & ~right
    return right.float() / right.sum(1, keepdim=True), ignored


def _codes(keys: Sequence[str]) -> Tensor:
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([codes[key] for key in keys])


def contrastive_loss(queries: Tensor, documents: Tensor, batch: Batch, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch with several positives a row; queries and documents (B, E) of unit length."""
    logits = queries @ documents.T * log_scale.exp()  # (B, B)
    return symmetric_cross_entropy(logits.masked_fill(batch.ignored, -1e4), batch.targets, batch.targets.T)


class Trainer:
    """One run. `step()` makes one update; `best` follows the validation recall that the caller reports through
    `validated`."""

    def __init__(
        self, retriever: Retriever, cache: StateCache, pairs: Sequence[Pair], settings: TrainSettings, folder: Path
    ) -> None:
        self.retriever, self.cache, self.settings, self.folder = retriever, cache, settings, folder
        self.fusion = retriever.sides["shared"].requires_grad_(True)
        # The moving average of the weights is what is validated and kept: the weights themselves go to and fro by
        # several points.
        self.averaged = copy.deepcopy(self.fusion).requires_grad_(False)
        self.groups: dict[str, dict[str, list[Pair]]] = {}
        for pair in pairs:
            self.groups.setdefault(pair.group, {}).setdefault(pair.subject, []).append(pair)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / settings.temperature)))
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.fusion.parameters(), settings.weight_decay, [self.log_scale]),
            lr=settings.learning_rate,
            betas=BETAS,
        )
        self.done = 0
        self.best = -1.0
        self._device = retriever.device.type
        self._autocast = has_fast_bfloat16(retriever.device)

    def step(self) -> float:
        """One update; returns the loss. What a step draws depends on the seed and its number alone, so resuming repeats
        a whole run."""
        settings = self.settings
        rng = random.Random(f"{settings.seed}/{self.done}")
        torch.manual_seed(settings.seed * 1_000_003 + self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(self.done, settings)
        batch = draw_batch(self.groups, settings, rng)
        self.fusion.train()
        queries, documents = self._embed(self.fusion, [*batch.queries, *batch.documents], rng).chunk(2)
        loss = contrastive_loss(queries, documents, batch, self.log_scale)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.fusion.parameters(), 1.0)
        self.optimizer.step()
        self._average()
        self.log_scale.data.clamp_(max=MAX_LOG_SCALE)
        self.done += 1
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        """Early on the average is of fewer steps, or it would remember how the weights began."""
        decay = min(self.settings.averaging, self.done / (self.done + 10))
        for average, weight in zip(self.averaged.parameters(), self.fusion.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def _embed(self, fusion: nn.Module, rows: Sequence[Row], rng: random.Random | None) -> Tensor:
        """(N, E) of unit length."""

        def embed(alike: Sequence[Row]) -> Tensor:
            states = self.cache.states(alike, rng)
            with torch.autocast(self._device, torch.bfloat16, enabled=self._autocast):
                return fusion(states).mean(dim=1).float()  # type: ignore[no-any-return]

        return embed_by_kind(rows, _has, embed)

    @torch.inference_mode()
    def embed(self, rows: Sequence[Row]) -> Tensor:
        """(N, E) of rows whose states are cached, by the averaged weights, plain versions of the images."""
        self.averaged.eval()
        parts = (rows[start : start + 256] for start in range(0, len(rows), 256))
        return torch.cat([self._embed(self.averaged, part, None) for part in parts])

    def validated(self, recall: float) -> bool:
        """Keeps the checkpoint when it is the best so far, and in any case what resuming needs."""
        improved = recall > self.best
        if improved:
            self.best = recall
            tensors = {f"shared.{key}": value for key, value in self.averaged.state_dict().items()}
            save_checkpoint(self.folder, self.retriever.ret2_config.to_json(), tensors)
        self._save_state()
        return improved

    def _save_state(self) -> None:
        state = {f"fusion.{key}": value for key, value in self.fusion.state_dict().items()}
        state |= {f"averaged.{key}": value for key, value in self.averaged.state_dict().items()}
        state |= optimizer_tensors(self.optimizer)
        state |= {
            "log_scale": self.log_scale.data,
            "done": torch.tensor(self.done),
            "best": torch.tensor(self.best, dtype=torch.float64),
        }
        save_tensors(self.folder / STATE_FILE, state)

    def start_from(self, checkpoint: Path) -> None:
        """Begins with another checkpoint's cell and adapters."""
        tensors = read_tensors(checkpoint / WEIGHTS_FILE)
        for fusion in (self.fusion, self.averaged):
            load_strict(fusion, with_prefix(tensors, "shared."), checkpoint.name)

    def resume(self) -> None:
        """Takes up where the folder's run stopped, which has to be the same run: `run_folder.claim` says whether
        it is."""
        state = read_tensors(self.folder / STATE_FILE)
        for fusion, prefix in ((self.fusion, "fusion."), (self.averaged, "averaged.")):
            load_strict(fusion, with_prefix(state, prefix), "run")
        self.log_scale.data.copy_(state["log_scale"])
        self.done, self.best = int(state["done"]), float(state["best"])
        restore_optimizer(self.optimizer, state)
