"""What clients of OpenAI's API send, as their libraries send it."""

from typing import Any

import pytest
from pydantic import ValidationError

from indexer.domain.inputs import InputIn
from indexer.domain.validation import field_errors, summary
from service.encoder.openai import EmbeddingsIn, items_of


@pytest.mark.parametrize(
    "unset",
    [{"encoding_format": None}, {"input_type": None}, {"dimensions": None}, {"user": None}, {"truncation": None}],
)
def test_null_means_not_said(unset: dict[str, None]) -> None:
    assert EmbeddingsIn.model_validate({"input": "red", **unset}) == EmbeddingsIn.model_validate({"input": "red"})


PART = {"type": "text", "text": "red"}


@pytest.mark.parametrize(
    ("sent", "texts"),
    [
        ("red", ["red"]),
        (["red", "blue"], ["red", "blue"]),
        ([PART, PART], ["red red"]),
        ([[PART, PART], "blue"], ["red red", "blue"]),
    ],
)
def test_the_forms_of_an_input(sent: Any, texts: list[str]) -> None:
    items = items_of(EmbeddingsIn.model_validate({"input": sent}))
    assert items == [InputIn(text=text) for text in texts]


@pytest.mark.parametrize(
    ("sent", "field", "limit"),
    [
        (5, "input", "input is a string or a list of inputs"),
        (["a", None], "input[1]", "an input is a string, a content part or a list of content parts"),
        (["a", True], "input[1]", "an input is a string, a content part or a list of content parts"),
        ([["a"]], "input[0][0]", "a content part has the type text or image_url"),
        ([{"type": "audio"}], "input[0]", "a content part has the type text or image_url"),
        ([{"type": "text", "text": 5}], "input[0].text", "Input should be a valid string"),
    ],
)
def test_a_wrong_input_is_named_in_a_short_message(sent: Any, field: str, limit: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EmbeddingsIn.model_validate({"input": sent})
    fields = field_errors(refused.value.errors(include_url=False))  # type: ignore[arg-type]
    assert [(error["field"], error["limit"]) for error in fields] == [(field, limit)]
    assert len(summary(fields)) < 200
