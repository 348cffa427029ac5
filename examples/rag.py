"""Answers out of what was retrieved: a picture of a flag, a question about the country, and any OpenAI-compatible chat endpoint.

    make demo                                             # a service with atlas in it, on port 8080
    export OPENAI_BASE_URL=http://127.0.0.1:11434/v1 OPENAI_API_KEY=none
    python examples/rag.py --model NAME                   # held-out questions: how many are answered right, by what is retrieved

"What money do people pay with in this country?" names no country, and the flag asks nothing: passages found by either alone are of
little help to the model that answers. The table compares them with passages found by both, and with none. See docs/examples.md.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import openai
from rich.console import Console
from rich.table import Table

from model.evaluation.atlas import Atlas
from service.client.client import DEFAULT_URL, Client

COLLECTION = "atlas"
RETRIEVED_BY = ("nothing", "text", "image", "text+image")
CONNECTIONS = 4

# The fact of a passage, by topic. Every flag passage of atlas is in one of these wordings.
FACTS = {
    "area": r"area of (?:.+ is )?(?P<fact>[\d.,]*\d) square kilometres",
    "borders": r"(?:borders|neighbours of .+ are|land border with) (?P<fact>(?!any other).+)\.|(?P<other>no land border)",
    "calling_code": r"(?:is|begin with) (?P<fact>\+\d+(?: and \+\d+)*)\.",
    "capital": r"capital of .+ is (?P<fact>.+)\.|(?P<other>.+) is the capital of|governed from (?P<third>.+), its capital",
    "currency": r"(?:currency of .+ is|people pay with|Money in .+:) the (?P<fact>.+)\.",
    "demonym": r"(?:is called|demonym of .+ is) (?P<fact>.+)\.",
    "internet_domain": r"(?:domain of .+ is|Web addresses in .+ end in) (?P<fact>\.\S+)\.",
    "languages": r"official languages? of .+ (?:is|are) (?P<fact>.+)\.|(?P<other>.+) (?:is|are) spoken in .+, officially",
    "region": r"(?:lies|is found) in (?P<fact>.+?)(?:, in the region| \()",
}

INSTRUCTION = (
    "Answer the question in a few words. Use the passages, of which the first fits best, and nothing else. "
    "Answer `unknown` where they do not say it."
)


@dataclass(frozen=True, slots=True)
class Question:
    """`fact` is the right answer."""

    text: str
    picture: bytes
    fact: str


def questions(atlas: Atlas) -> list[Question]:
    """Pairs of country and question, and pictures, that the bundled model was never trained on."""
    return [
        Question(one.question, atlas.images[one.heldout_image_id], fact(one.topic, atlas.by_id[one.positive_id].text))
        for one in atlas.queries
        if one.part == "flags" and one.split == "heldout"
    ]


def fact(topic: str, passage: str) -> str:
    """Empty where the passage is of another topic."""
    found = re.search(FACTS[topic], passage)
    return next((group for group in found.groups() if group), "") if found else ""


def passages(client: Client, question: Question, retrieved_by: str, limit: int) -> list[str]:
    if retrieved_by == "nothing":
        return []
    text = question.text if "text" in retrieved_by else None
    picture = question.picture if "image" in retrieved_by else None
    return [hit.text or "" for hit in client.search(COLLECTION, text, picture, limit=limit).hits]


def answer(chat: openai.OpenAI, model: str, question: str, found: Sequence[str]) -> str:
    listed = "\n".join(f"{number}. {passage}" for number, passage in enumerate(found, 1)) or "(none)"
    said = chat.chat.completions.create(
        model=model,
        temperature=0,
        messages=[
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": f"Passages:\n{listed}\n\nQuestion: {question}"},
        ],
    )
    return said.choices[0].message.content or ""


def right(said: str, wanted: str) -> bool:
    """Every item of the fact occurs in the answer; what stands in brackets, such as a currency's code, need not."""
    items = [item for item in re.split(r", | and ", re.sub(r"\s*\([^)]*\)", "", wanted)) if item]
    return all(re.search(rf"(?<![\w.,]){re.escape(item)}(?![\w]|[.,]\d)", said, re.IGNORECASE) for item in items)


def accuracy(client: Client, chat: openai.OpenAI, model: str, asked: Sequence[Question], by: str, limit: int) -> float:
    def one(question: Question) -> bool:
        return right(answer(chat, model, question.text, passages(client, question, by, limit)), question.fact)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return sum(pool.map(one, asked)) / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="of the chat endpoint")
    parser.add_argument("--questions", type=int, default=100, help="how many, at most 372")
    parser.add_argument("--passages", type=int, default=3, help="how many the chat model is given")
    parser.add_argument("--url", default=DEFAULT_URL, help="of ret2")
    given = parser.parse_args()
    all_of_them = questions(Atlas.read())
    asked = all_of_them[:: max(1, len(all_of_them) // given.questions)][: given.questions]
    table = Table("passages found by", "right answers", title=f"{len(asked)} questions, {given.passages} passages each")
    with Client(given.url) as client, openai.OpenAI() as chat:
        measured = partial(accuracy, client, chat, given.model, asked, limit=given.passages)
        for by in RETRIEVED_BY:
            table.add_row(by, f"{measured(by):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
