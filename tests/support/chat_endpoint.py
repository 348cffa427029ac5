"""A chat endpoint on loopback that speaks as OpenAI's and knows nothing: it answers out of the passages that it is given, or `unknown`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from local_http import serving

Answer = Callable[[str, Sequence[str]], str]

# What a question of atlas asks about, by words that only questions about it have.
TOPICS = {
    "area": "how large|how big|area|square",
    "borders": "border|neighbours|next to",
    "calling_code": "dial|calling|phone",
    "capital": "capital|governed",
    "currency": "currency|money|pay",
    "internet_domain": "domain|web addresses",
    "languages": "language|spoken",
    "region": "part of the world|on the map|continent|coast",
    "demonym": "called|call someone|demonym",
}


def topic_of(question: str) -> str:
    return next(topic for topic, words in TOPICS.items() if re.search(words, question, re.IGNORECASE))


def reader(fact: Callable[[str, str], str]) -> Answer:
    """Says the fact of the first passage about what is asked. It cannot see the picture, so it trusts what was retrieved."""

    def answer(question: str, passages: Sequence[str]) -> str:
        topic = topic_of(question)
        return next((found for passage in passages if (found := fact(topic, passage))), "unknown")

    return answer


@contextmanager
def chat_endpoint(answer: Answer) -> Iterator[str]:
    """Its base URL, for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt: str = body["messages"][-1]["content"]
            passages = re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE)
            said = answer(prompt.rpartition("Question: ")[2], passages)
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            wire = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
            content = json.dumps(wire).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Silent."""

    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}/v1"
