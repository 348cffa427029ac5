"""Floating-point operations of a forward, by formula: a multiply and an add are two. Norms, biases, softmax and activations are left out,
as they are by everyone who states a share of a matmul peak."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoder:
    """The shape of a transformer encoder."""

    layers: int
    width: int
    heads: int
    intermediate: int

    def flops(self, tokens: int) -> int:
        """Of one sequence."""
        projections = 4 * 2 * tokens * self.width**2  # query, key, value, out
        attention = 2 * 2 * tokens**2 * self.width  # scores and their sums, all heads together
        mlp = 2 * 2 * tokens * self.width * self.intermediate
        return self.layers * (projections + attention + mlp)


@dataclass(frozen=True, slots=True)
class VisionShape:
    """A ViT: square patches, one class token."""

    name: str
    encoder: Encoder
    patch_px: int
    image_px: int = 224

    @property
    def patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2

    @property
    def tokens(self) -> int:
        return self.patches + 1

    def flops(self) -> int:
        """Of one image: the patch embedding and every block."""
        embedding = 2 * self.patches * 3 * self.patch_px**2 * self.encoder.width
        return embedding + self.encoder.flops(self.tokens)


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Both towers of a CLIP, its projection, and what is put on top here."""

    vision: VisionShape
    text: Encoder
    projection: int
    text_positions: int = 77
    fusion_width: int = 1024  # of the recurrent cell, as ReT has it for every backbone

    @property
    def name(self) -> str:
        return self.vision.name


# Radford et al. 2021, table 20; ViT-H/14 as OpenCLIP made it (LAION-2B).
CLIP_SHAPES = {
    "B/32": ClipShape(VisionShape("ViT-B/32", Encoder(12, 768, 12, 3072), 32), Encoder(12, 512, 8, 2048), 512),
    "L/14": ClipShape(VisionShape("ViT-L/14", Encoder(24, 1024, 16, 4096), 14), Encoder(12, 768, 12, 3072), 768),
    "H/14": ClipShape(VisionShape("ViT-H/14", Encoder(32, 1280, 16, 5120), 14), Encoder(24, 1024, 16, 4096), 1024),
    "toy": ClipShape(VisionShape("toy", Encoder(12, 32, 2, 64), 16, 32), Encoder(12, 32, 2, 64), 32, fusion_width=64),
}
