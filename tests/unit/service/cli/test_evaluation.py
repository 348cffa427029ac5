"""The commands around a checkpoint, as a shell sees them: what they print and how they exit."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.errors import InvalidInput
from model.evaluation.recall import Carries, Recall
from service.cli import evaluation
from service.cli.main import app
from service.client.client import Client

GOLDEN = Path(__file__).parents[3] / "golden" / "ret-v1-small"


def test_an_evaluation_over_http_sends_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}

    def client(url: str, *, api_key: str | None) -> Client:
        made[url] = api_key
        raise InvalidInput("far enough")

    monkeypatch.setattr(evaluation, "Client", client)
    for arguments, environment in ((["--api-key", "k1"], {}), ([], {"RET2_API_KEY": "k2"})):
        CliRunner().invoke(app, ["eval", "atlas", "--url", f"http://{len(made)}", *arguments], env=environment)
    assert made == {"http://0": "k1", "http://1": "k2"}


def test_tables_show_every_combination_and_part(capsys: pytest.CaptureFixture[str]) -> None:
    recall = {"flags": Recall(3, (0.5, 0.75, 1.0)), "emoji": Recall(4, (0.25, 0.5, 0.125))}
    results = {(query, document): recall for query in Carries for document in Carries}
    table = evaluation._nine_table(results, "a title")
    assert table.row_count == 9
    assert [column.header for column in table.columns][:5] == [
        "query",
        "document",
        "flags R@1",
        "flags R@5",
        "flags R@10",
    ]
    assert list(table.columns[2].cells) == ["0.500"] * 9
    assert list(table.columns[-1].cells) == ["4"] * 9
