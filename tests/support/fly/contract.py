"""Fly's OpenAPI description, as a judge of requests and answers: the fake cannot drift from it unnoticed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

Json = Any
DESCRIPTION = Path(__file__).parent / "openapi.json"
METHODS = ("get", "post", "put", "patch", "delete")
# Where Fly's documentation or its own client say more than the description does:
# errors that carry no schema there, a status that its client knows, and a filter and two switches in the query.
ERRORS = {"$ref": "#/components/schemas/ErrorResponse"}
LEASE_ERROR = {
    "type": "object",
    "properties": {"status": {"const": "error"}, "message": {"type": "string"}, "code": {"type": "string"}},
    "required": ["message"],
}
MORE_STATUSES = ("name_taken",)
MORE_QUERY = re.compile(r"metadata\.\w+|kill|wait")
# Operations whose answer the description leaves out, and which answer {"ok": true}.
OK = {"type": "object", "properties": {"ok": {"const": True}}, "additionalProperties": False}
START = {
    "type": "object",
    "properties": {
        "previous_state": {"type": "string"},
        "migrated": {"type": "boolean"},
        "new_host": {"type": "string"},
    },
    "required": ["previous_state"],
    "additionalProperties": False,
}
APP_MADE = {"type": "object", "properties": {"id": {"type": "string"}, "created_at": {"type": "integer"}}}
# Of a list. The rest is alike, and would take long to check.
CHECKED = 10
UNDESCRIBED: dict[str, Json] = {"Machines_start": START, "Apps_create": APP_MADE}


@dataclass(frozen=True)
class Operation:
    """An operation of the description, and what it says about it."""

    id: str
    method: str
    path: str
    pattern: re.Pattern[str]
    described: Json


class Contract:
    """The operations, and the checks of what goes to them and comes back."""

    def __init__(self) -> None:
        document = json.loads(DESCRIPTION.read_text())
        self._components = _closed(document["components"])
        self._components["schemas"]["main.statusCode"]["enum"] += MORE_STATUSES
        self._validators: dict[str, Draft202012Validator] = {}
        self._operations = [
            Operation(_id(row), method.upper(), path, _pattern(path), row)
            for path, rows in document["paths"].items()
            for method, row in rows.items()
            if method in METHODS
        ]

    @property
    def ids(self) -> list[str]:
        """Every operation's name."""
        return [operation.id for operation in self._operations]

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation that a request is for, and the variables of its path."""
        for operation in self._operations:
            if operation.method == method and (match := operation.pattern.fullmatch(path)):
                return operation, match.groupdict()
        return None

    def request(self, operation: Operation, query: Mapping[str, str], body: Json | None) -> list[str]:
        """What is wrong with a request."""
        known = {row["name"]: row for row in operation.described.get("parameters", ()) if row["in"] == "query"}
        problems = [
            f"query {name} is unknown" for name in query if name not in known and not MORE_QUERY.fullmatch(name)
        ]
        for name, value in query.items():
            if name in known:
                problems += self._problems(known[name]["schema"], _read(value, known[name]["schema"]), f"query {name}")
        schema = _schema(operation.described.get("requestBody"))
        if body is not None and schema is None:
            problems.append("no body is expected")
        if schema is not None and body is not None:
            problems += self._problems(schema, body, "body")
        return problems

    def answer(self, operation: Operation, status: int, body: Json | None) -> list[str]:
        """What is wrong with an answer."""
        if status >= 400:
            return self._problems({"anyOf": [ERRORS, LEASE_ERROR]}, body, "error")
        described = operation.described["responses"].get(str(status))
        if described is None:
            return [f"status {status} is not described"]
        if status in (202, 204):
            return [] if body is None else ["no body is expected"]
        if operation.id.endswith("_lease") and isinstance(body, dict) and "data" in body:
            body = body["data"]  # documentation and client wrap what the description shows bare
        schema = _schema(described) or UNDESCRIBED.get(operation.id, OK)
        return self._problems(schema, body[:CHECKED] if isinstance(body, list) else body, "answer")

    def _problems(self, schema: Json, value: Json, what: str) -> list[str]:
        key = json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = Draft202012Validator({**_closed(schema), "components": self._components})
        validator = self._validators[key]
        return [f"{what}{error.json_path.removeprefix('$')}: {error.message}" for error in validator.iter_errors(value)]


@cache
def contract() -> Contract:
    """The contract, read once."""
    return Contract()


def _id(row: Json) -> str:
    # One name is spelt unlike all the others.
    return str(row["operationId"]).replace("Volume_", "Volumes_")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("/v1" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


def _schema(part: Json) -> Json | None:
    content = (part or {}).get("content") or {}
    return content.get("application/json", {}).get("schema")


def _read(value: str, schema: Json) -> Json:
    kind = schema.get("type")
    if kind == "integer" and re.fullmatch(r"-?\d+", value):
        return int(value)
    return {"true": True, "false": False}.get(value, value) if kind == "boolean" else value


def _closed(schema: Json) -> Json:
    """OpenAPI 3.0 as JSON Schema. Objects with properties take no others: a misspelt one would be ignored by Fly."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _closed(value) for name, value in schema.items() if name != "nullable"}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made
