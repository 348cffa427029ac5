"""Values that the examples of the OpenAPI document share. Requests among the examples are sent by a test, about a
collection `flags`."""

from __future__ import annotations

from typing import Any

PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAFklEQVR42mNgCF3y////946mTAwwAABPTwVepQY8gAAAAABJRU5ErkJggg=="
)
PNG_URI = f"data:image/png;base64,{PNG_BASE64}"
QUESTION = "Which countries lie next to this country?"
DOCUMENT_ID = "flag:fr/borders"
OTHER_ID = "flag:ke/currency"
JOB_ID = "01JZ8Q4N6Y3W"
IN_EUROPE: dict[str, Any] = {"field": "region", "equals": "Europe"}
DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": DOCUMENT_ID,
        "text": "France borders Belgium, Spain and others.",
        "image": {"base64": PNG_BASE64},
        "metadata": {"region": "Europe", "area_km2": 551695},
    },
    {"id": OTHER_ID, "text": "In Kenya people pay with the shilling.", "metadata": {"region": "Africa"}},
]
