"""`ret2 import`: what is written on the command line as what is sent."""

import pytest

from model.errors import InvalidInput
from service.cli.imports import mapping_of


def test_a_mapping() -> None:
    assert mapping_of([]) is None
    fields = ["text=caption", "id=a=b", "metadata=width,license", "image_root=s3://bucket/large"]
    assert mapping_of(fields) == {
        "text": "caption",
        "id": "a=b",
        "metadata": ["width", "license"],
        "image_root": "s3://bucket/large",
    }
    assert mapping_of(["metadata=*"]) == {"metadata": "*"}


@pytest.mark.parametrize("wrong", ["text", "text=", "=caption", ""])
def test_what_is_no_mapping(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="it must be like text=caption"):
        mapping_of([wrong])
