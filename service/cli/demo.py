"""The demo of `make demo`: serve, load atlas and a few photographs, ask questions over HTTP, measure recall, stay up.

It uses the public API alone.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from model.errors import DependencyUnavailable, NotFound
from model.evaluation.atlas import Atlas, AtlasDocument
from model.evaluation.recall import KS, Carries, corpus, questions, recall
from model.types import Input
from service.cli import demo_photographs
from service.cli.tables import print_answer, progress_bar
from service.client.client import Client
from service.data_lock import server_of

COLLECTION = MODEL = "atlas"
FIELDS = {  # of the documents' metadata: what the page makes filter controls from
    "country": "keyword",
    "region": "keyword",
    "part": "keyword",
    "topic": "keyword",
    "landlocked": "bool",
    "area_km2": "number",
}
_START_S = 300.0  # a first start reads the weights from a cold disk and warms the model up
_STOP_S = 30.0  # over the service's own grace of 25 s
_SAMPLE = 100  # questions of each part in the recall line: some seconds on two cores
_CONNECTIONS = 4
_LOG_LINES = 15


EXAMPLE_DOCUMENTS = ("flag:ke/currency", "flag:br/demonym", "flag:ch/borders", "flag:td/capital")


@dataclass(frozen=True, slots=True)
class Example:
    """One search of the demo, and which hit must be first: `expected` says it of a document."""

    title: str
    text: str | None
    image: bytes | None
    filter: dict[str, Any] | None
    expected: Callable[[AtlasDocument], bool]


def run(*, once: bool, port: int, data_dir: Path) -> bool:
    """Run the demo, and return whether every expected hit was first. Without `once` it stays until Ctrl-C."""
    console = Console()
    atlas = Atlas.read()
    try:
        with (
            running_service(console, port, data_dir) as url,
            Client(url, api_key=os.environ.get("RET2_API_KEY")) as client,
        ):
            fill(client, atlas, console)
            demo_photographs.fill(client, console)
            right = [_show(client, atlas, example, console) for example in examples(atlas)]
            right.append(demo_photographs.ask(client, console))
            _measure(client, atlas, console)
            console.print(f"[bold]{sum(right)} of {len(right)}[/bold] expected hits are first")
            if not once:
                _invite(url, atlas, data_dir, console)
                while True:
                    time.sleep(3600)
            return all(right)
    except KeyboardInterrupt:
        console.print("stopped; the index stays in", str(data_dir))
        return True


# --- the service


@contextmanager
def running_service(console: Console, port: int, data_dir: Path) -> Iterator[str]:
    """Yield the address of a ready service over `data_dir`: one that an earlier demo left running, or a child
    process."""
    note = data_dir / "demo.json"  # where the running demo of this folder is to be found
    if (running := _running(note, data_dir)) is not None:
        console.print(f"using the service that already runs on {running}")
        yield running
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    port = port if _is_free(port) else _free_port()
    url = f"http://127.0.0.1:{port}"
    with (data_dir / "demo.log").open("wb") as log:
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "service",
                "serve",
                "--host=127.0.0.1",
                f"--port={port}",
                f"--data-dir={data_dir}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop the child in order
        )
    with _stopping_on_signals():
        try:
            _wait_until_ready(child, url, Path(log.name), console)
            note.write_text(json.dumps({"url": url, "pid": child.pid}))
            yield url
        finally:
            note.unlink(missing_ok=True)
            _stop(child)


def _running(note: Path, data_dir: Path) -> str | None:
    """Return the address of the demo's running service, if any. The note may come from a killed service, and its
    address may belong to another service by now, so the process of the note must hold the lock of this folder."""
    try:
        loaded = json.loads(note.read_text())
        url, pid = str(loaded["url"]), int(loaded["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if server_of(data_dir) != pid:
        return None
    with Client(url, timeout_s=10, attempts=1) as client:
        return url if client.ready() else None


def _wait_until_ready(child: subprocess.Popen[bytes], url: str, log: Path, console: Console) -> None:
    began = time.monotonic()
    with console.status(f"starting the service on {url}"), Client(url, timeout_s=10) as client:
        while not client.ready():
            if child.poll() is not None:
                raise DependencyUnavailable(f"the service ended with status {child.returncode}; {_tail(log)}")
            if time.monotonic() - began > _START_S:
                raise DependencyUnavailable(f"the service is not ready after {_START_S:g} s; {_tail(log)}")
            time.sleep(0.1)
    console.print(f"service ready on {url} after {time.monotonic() - began:.1f} s")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return f"the end of {log}:\n" + "\n".join(lines)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """Stop the demo at `kill` and at a closed terminal as at Ctrl-C, so that the child does not stay behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT is no owner
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the collection


def fill(client: Client, atlas: Atlas, console: Console) -> None:
    """Load what is missing; a second start loads nothing."""
    documents = atlas_documents(atlas)
    try:
        collection = client.collection(COLLECTION)
        if not collection.compatible:
            console.print("the collection was filled by another model: filling it again")
            client.delete_collection(COLLECTION)
        elif collection.documents == len(documents):
            console.print(f"collection {COLLECTION} is complete: {collection.documents:,} documents")
            return
    except NotFound:
        pass
    client.create_collection(COLLECTION, indexes=FIELDS, model=MODEL)
    began = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task(f"embedding {len(documents):,} documents", total=len(documents))
        loaded = client.load(COLLECTION, documents, on_progress=lambda done: bar.update(task, completed=done))
    loaded.require_all()
    console.print(f"loaded {loaded.sent:,} documents of text and image in {time.monotonic() - began:.1f} s")


def atlas_documents(atlas: Atlas) -> list[dict[str, Any]]:
    """Return atlas as documents of the API, in the order and with the content of the benchmark's text+image corpus."""
    by_id = atlas.by_id
    return [
        {
            "id": item.id,
            "text": item.content.text,
            "image": item.content.image,
            "metadata": {"part": by_id[item.id].part, "topic": by_id[item.id].topic, **by_id[item.id].metadata},
        }
        for item in corpus(atlas, Carries.BOTH)
    ]


# --- the four searches


def examples(atlas: Atlas) -> list[Example]:
    """Return four examples: text; image; image and question; image and question with a filter.

    All four are held-out pairs of a country and a question, with pictures by an artist who is not in the training
    split. To the eye Chad's flag is Romania's too: only the filter decides which of the two capitals is meant.
    """
    query = {query_row.id: query_row for query_row in atlas.queries}
    kenya, brazil, switzerland, chad = (query[f"{document_id}/query"] for document_id in EXAMPLE_DOCUMENTS)
    picture = {query_row.subject: atlas.images[query_row.heldout_image_id] for query_row in (brazil, switzerland, chad)}
    africa = {"field": "region", "equals": "Africa"}
    return [
        Example("A question", kenya.question_named, None, None, _is(kenya.positive_id)),
        Example("A picture", None, picture[brazil.subject], None, lambda document: document.subject == brazil.subject),
        Example(
            "A picture and a question",
            switzerland.question,
            picture[switzerland.subject],
            None,
            _is(switzerland.positive_id),
        ),
        Example(
            "A picture and a question, with a filter",
            chad.question,
            picture[chad.subject],
            africa,
            _is(chad.positive_id),
        ),
    ]


def _is(document_id: str) -> Callable[[AtlasDocument], bool]:
    return lambda document: document.id == document_id


def _show(client: Client, atlas: Atlas, example: Example, console: Console) -> bool:
    result = client.search(COLLECTION, example.text, example.image, limit=3, filter=example.filter)
    right = bool(result.hits) and example.expected(atlas.by_id[result.hits[0].id])
    parts = [] if example.text is None else [f"“{example.text}”"]
    parts += [] if example.image is None else ["a picture"]
    parts += [] if example.filter is None else [f"filter {json.dumps(example.filter)}"]
    heading = f"[bold]{escape(example.title)}[/bold]: {escape(' + '.join(parts))}"
    print_answer(console, heading, result, right=right)
    return right


# --- how good it is on the whole


def _measure(client: Client, atlas: Atlas, console: Console) -> None:
    """Print the recall on a random sample of the benchmark's test questions, asked through /search."""
    questions_with_both = questions(atlas, Carries.BOTH, Carries.BOTH)
    draw = random.Random(0)
    sample = [
        question
        for part in ("flags", "emoji")
        for question in _sampled([q for q in questions_with_both if q.part == part], draw)
    ]

    def search(inputs: Sequence[Input]) -> list[list[str]]:
        def one(query: Input) -> list[str]:
            return [hit.id for hit in client.search(COLLECTION, query.text, query.image, limit=max(KS)).hits]

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            return list(pool.map(one, inputs))

    with console.status(f"asking {len(sample)} test questions"):
        recalls = recall(sample, corpus(atlas, Carries.BOTH), search)
    console.print()
    for part, result in recalls.items():
        held_out = sum(question.part == part for question in questions_with_both)
        console.print(
            f"atlas {part}: Recall@1 [bold]{result.recalls[0]:.2f}[/bold] on {result.n} of {held_out} held-out "
            "questions, "
            "drawn at random (picture by an artist never trained on + question → passage + picture by another artist)"
        )


def _sampled(pool: list[Any], draw: random.Random) -> list[Any]:
    return draw.sample(pool, min(_SAMPLE, len(pool)))


def _invite(url: str, atlas: Atlas, data_dir: Path, console: Console) -> None:
    """Print the address and two commands that work as they are printed."""
    query_row = next(query_row for query_row in atlas.queries if query_row.positive_id == EXAMPLE_DOCUMENTS[2])
    picture = data_dir / "flag.png"
    picture.write_bytes(atlas.images[query_row.heldout_image_id])
    file, question = shlex.quote(str(picture)), json.dumps(query_row.question)
    curl = (
        f"curl -s {url}/search -H 'content-type: application/json' -d "
        f"""'{{"collection": "{COLLECTION}", "limit": 1, "query": {{"text": {question}, """
        f""""image": {{"base64": "'"$(base64 < {file} | tr -d '\\n')"'"}}}}}}'"""
    )
    command = shlex.join(
        [f"{Path(sys.executable).parent}/ret2", "search", query_row.question, "-i", str(picture), "-c", COLLECTION]
    )
    console.print(f"\nThe service stays up on [bold]{url}[/bold], its API is described on {url}/docs. Try")
    for line in (curl, f"{command} --url {url}"):
        console.print(f"\n    {line}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nCtrl-C ends it; the next start has nothing to load.")
