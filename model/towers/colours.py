"""The basic colours of the thing in a picture: how much of it is red, blue and so on, by the nearest reference colour
in CIELAB."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Named colours of CSS, by the basic colour that people call them.
_REFERENCES = {
    "red": ("ff0000", "b22222", "8b0000", "dc143c"),
    "blue": ("0000ff", "4169e1", "00008b", "87ceeb"),
    "green": ("008000", "32cd32", "006400", "8fbc8f", "6b8e23"),
    "yellow": ("ffff00", "ffd700", "f0e68c"),
    "orange": ("ffa500", "ff8c00", "ff7f50"),
    "purple": ("800080", "9370db", "4b0082"),
    "pink": ("ffc0cb", "ff69b4", "ff1493"),
    "black": ("000000", "242424"),
    "white": ("ffffff",),
    "grey": ("696969", "808080", "a9a9a9", "d3d3d3"),
    "brown": ("8b4513", "a0522d", "d2b48c"),
}
# White, grey and brown are those of paper, shadow, skin and wood too: that a picture has them says little of the thing
# in it.
TELLING = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "black")
_STRIDE = 4  # every fourth pixel in both directions is counted
_BACKGROUND = 12.0  # of CIELAB distance from the colour of most of the border
_WHITE = 3.0  # of distance from white, which is also what pads a picture to a square

# sRGB to XYZ of the white point D65, each row divided by that of white: what CIELAB starts from.
_TO_XYZ = (
    (0.4124 / 0.95047, 0.3576 / 0.95047, 0.1805 / 0.95047),
    (0.2126, 0.7152, 0.0722),
    (0.0193 / 1.08883, 0.1192 / 1.08883, 0.9505 / 1.08883),
)


class ColourShares(nn.Module):
    """Pixels, normalised by `mean` and `std`, to the share of each of `TELLING` in the foreground, times how plain the
    background is."""

    mean: Tensor
    std: Tensor
    references: Tensor
    owners: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        rgb = [
            [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)] for family in _REFERENCES.values() for value in family
        ]
        names = [name for name, family in _REFERENCES.items() for _ in family]
        owners = [[float(name == colour) for colour in TELLING] for name in names]  # all 0: a colour that tells nothing
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.register_buffer("references", lab(torch.tensor(rgb)), persistent=False)  # (R, 3)
        self.register_buffer("owners", torch.tensor(owners), persistent=False)  # (R, C)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the share of each colour: pixels (B, 3, S, S) -> (B, C), with a sum of at most 1."""
        grid = pixels[:, :, ::_STRIDE, ::_STRIDE].float().permute(0, 2, 3, 1)  # (B, s, s, 3)
        colours = lab((grid * self.std.float() + self.mean.float()).clamp(0, 1))
        border = torch.cat([colours[:, 0], colours[:, -1], colours[:, :, 0], colours[:, :, -1]], dim=1)  # (B, 4s, 3)
        middle = (border.shape[1] - 1) // 2
        background = border.sort(dim=1).values[:, middle : middle + 1]  # (B, 1, 3)
        plainness = ((border - background).norm(dim=-1) < _BACKGROUND).float().mean(dim=1)  # (B,)
        flat = colours.flatten(1, 2)  # (B, N, 3)
        white = torch.tensor([100.0, 0.0, 0.0], device=flat.device)
        is_foreground = ((flat - background).norm(dim=-1) >= _BACKGROUND) & ((flat - white).norm(dim=-1) >= _WHITE)
        nearest = torch.cdist(flat, self.references.float()[None]).argmin(dim=-1)  # (B, N)
        counts = (self.owners.float()[nearest] * is_foreground[..., None]).sum(dim=1)  # (B, C)
        shares: Tensor = counts / is_foreground.sum(dim=1, keepdim=True).clamp(min=1) * plainness[:, None]
        return shares


def lab(rgb: Tensor) -> Tensor:
    """Convert sRGB (…, 3) from 0 to 1 to CIELAB (CIE 15:2004, section 8.2.1)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ torch.tensor(_TO_XYZ, device=rgb.device).T
    cube = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=0) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = cube.unbind(dim=-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)
