"""What of the chart is written by a program: README.md's table of values, and the settings that values.schema.json knows.

python k8s/chart_docs.py          writes both; a test compares them with values.yaml and service/settings.py
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from service.settings import Settings

CHART = Path(__file__).parent / "ret2"
_BEGIN, _END = "<!-- values: written by k8s/chart_docs.py -->\n", "<!-- end of values -->\n"

# Settings that have a value of their own in the chart, or come from a Secret: not to be given twice.
MANAGED = {
    *(
        "role",
        "host",
        "port",
        "metrics_port",
        "data_dir",
        "models",
        "device",
        "log_level",
        "grace_s",
        "api_keys_file",
        "insecure",
    ),
    *(
        "encoder_url",
        "encoder_api_key",
        "qdrant_url",
        "qdrant_api_key",
        "qdrant_grpc_port",
        "qdrant_prefer_grpc",
        "database_url",
        "blobs_url",
    ),
}


@dataclass(frozen=True, slots=True)
class Value:
    path: str
    default: str
    comment: str


def values(text: str) -> Iterator[Value]:
    """Each value with the comment of its line; a mapping with a comment is one value, otherwise its entries are."""
    yield from _entries(yaml.compose(text), text.splitlines(), "")


def _entries(mapping: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Value]:
    for key, node in mapping.value:
        path = f"{prefix}{key.value}"
        _, _, comment = lines[key.start_mark.line].partition(" # ")
        if comment or not isinstance(node, yaml.MappingNode) or not node.value:
            yield Value(path, json.dumps(yaml.safe_load(yaml.serialize(node))), comment.strip())
        else:
            yield from _entries(node, lines, f"{path}.")


def table(text: str) -> str:
    rows = ["| value | default | |", "|---|---|---|"]
    for value in values(text):
        comment = value.comment.replace("|", "\\|")
        rows.append(f"| `{value.path}` | `{value.default}` | {comment} |")
    return "\n".join(rows) + "\n"


def readme(old: str, text: str) -> str:
    head, _, rest = old.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return head + _BEGIN + table(text) + _END + tail


def schema(old: str) -> str:
    document = json.loads(old)
    names = sorted(f"RET2_{name.upper()}" for name in Settings.model_fields if name not in MANAGED)
    document["$defs"]["settings"]["propertyNames"]["enum"] = names
    return json.dumps(document, indent=2) + "\n"


def documents() -> dict[Path, str]:
    """What the two files ought to hold."""
    readme_file, schema_file = CHART / "README.md", CHART / "values.schema.json"
    return {
        readme_file: readme(readme_file.read_text(), (CHART / "values.yaml").read_text()),
        schema_file: schema(schema_file.read_text()),
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
