"""A telephone's pictures: HEIC, by a decoder that is a package of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from model.errors import InvalidInput, TooLarge
from model.images.decoding import decode_image
from model.images.sources import check_image
from model.types import Limits

# 48 x 64 px as it is seen: blue above red. Its pixels lie on their side.
HEIC = (Path(__file__).parents[3] / "support" / "turned.heic").read_bytes()


def test_heic_is_read_upright() -> None:
    check_image(HEIC, Limits())
    image = decode_image(HEIC, Limits())
    assert (image.mode, image.size) == ("RGB", (48, 64))
    (_, _, blue), (red, _, _) = image.getpixel((24, 8)), image.getpixel((24, 56))
    assert blue > 150
    assert red > 150


def test_its_decoder_never_runs_in_this_process() -> None:
    code = (
        "import sys; from pathlib import Path; from model.types import Limits\n"
        "from model.images.decoding import decode_image; from model.images.thumbnail import thumbnail\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "decode_image(data, Limits()), thumbnail(data, 16, Limits())\n"
        "assert not {'pi_heif', '_pi_heif'} & sys.modules.keys()"
    )
    path = Path(__file__).parents[3] / "support" / "turned.heic"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_its_header_is_held_against_the_limit() -> None:
    with pytest.raises(TooLarge, match=r"image has 3072 px \(48 x 64\), limit is 3000"):
        decode_image(HEIC, Limits(max_image_px=3000))


@pytest.mark.parametrize("keep", [40, len(HEIC) // 2, len(HEIC) - 100])
def test_a_broken_one_fails(keep: int) -> None:
    with pytest.raises(InvalidInput, match="image cannot be"):
        decode_image(HEIC[:keep], Limits())
    assert decode_image(HEIC, Limits()).size == (48, 64)
