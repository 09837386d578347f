"""Conditions of routers, by the rules of the engine's expressions.

Paths begin at context.data, context.config, data, config, outputs or steps; any other name is a field of the data.
Literals are JSON's, and lists of them. There are == != > >= < <= in && || ! and parentheses. A path that leads nowhere
is null; numbers and texts are compared among themselves only. Arithmetic, `?:` and functions are refused by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.providers.runtime.devengine.errors import InvalidArgument
from server.providers.runtime.devengine.models import JsonObject
from server.providers.runtime.devengine.templates import walk

TOKEN = re.compile(
    r"\s*(?:(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<text>\"[^\"]*\"|'[^']*')|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)"
    r"|(?P<sign>==|!=|>=|<=|&&|\|\||[><!()\[\],]))"
)
LITERALS = {"true": True, "false": False, "null": None}
MAX_LENGTH = 4096
MAX_DEPTH = 64

Values = Callable[[str], Any]
Node = Callable[[Values], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """An expression that was read."""

    _node: Node

    def holds(self, context: JsonObject, outputs: JsonObject) -> bool:
        """Whether it is true of an instance."""
        return is_truthy(self._node(lambda path: _value(path, context, outputs)))


def parse(text: str) -> Condition:
    """Raises InvalidArgument."""
    if len(text) > MAX_LENGTH:
        raise InvalidArgument(f"the condition is longer than {MAX_LENGTH} characters")
    return Condition(_node=_Parser(text).whole())


def is_truthy(value: Any) -> bool:
    """Null, false, zero and what is empty are false; every object is true."""
    return True if isinstance(value, dict) else bool(value)


def _value(path: str, context: JsonObject, outputs: JsonObject) -> Any:
    root, *steps = path.split(".")
    if root == "context":
        return walk(context, steps)
    if root in ("data", "config"):
        return walk(context[root], steps)
    return walk(outputs, steps) if root in ("outputs", "steps") else walk(context["data"], [root, *steps])


def _equal(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _comparable(left: Any, right: Any) -> bool:
    kinds = [str if isinstance(value, str) else float if _is_number(value) else None for value in (left, right)]
    return kinds[0] is not None and kinds[0] is kinds[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    ">": lambda left, right: _comparable(left, right) and left > right,
    ">=": lambda left, right: _comparable(left, right) and left >= right,
    "<": lambda left, right: _comparable(left, right) and left < right,
    "<=": lambda left, right: _comparable(left, right) and left <= right,
    "in": lambda left, right: isinstance(right, list) and any(_equal(left, item) for item in right),
}


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._read(text)
        self._depth = 0

    def _read(self, text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while text[at:].strip():
            match = TOKEN.match(text, at)
            if match is None:
                raise self._refusal(f"{text[at:].strip()[:20]!r} is not known to the development engine")
            tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()
        return tokens[::-1]

    def whole(self) -> Node:
        node = self._or()
        if self._tokens:
            raise self._refusal(f"{self._tokens[-1][1]!r} is one too many")
        return node

    def _or(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._refusal("it is nested too deeply")
        nodes = [self._and()]
        while self._take("||"):
            nodes.append(self._and())
        self._depth -= 1
        return nodes[0] if len(nodes) == 1 else lambda values: any(is_truthy(node(values)) for node in nodes)

    def _and(self) -> Node:
        nodes = [self._comparison()]
        while self._take("&&"):
            nodes.append(self._comparison())
        return nodes[0] if len(nodes) == 1 else lambda values: all(is_truthy(node(values)) for node in nodes)

    def _comparison(self) -> Node:
        left = self._unary()
        sign = next((sign for sign in COMPARISONS if self._take(sign)), None)
        if sign is None:
            return left
        compare, right = COMPARISONS[sign], self._unary()
        return lambda values: compare(left(values), right(values))

    def _unary(self) -> Node:
        negations = 0
        while self._take("!"):
            negations += 1
        node = self._primary()
        for _ in range(negations):
            node = _negated(node)
        return node

    def _primary(self) -> Node:
        if self._take("("):
            node = self._or()
            self._expect(")")
            return node
        if self._take("["):
            return self._list()
        kind, text = self._tokens.pop() if self._tokens else ("end", "the end")
        if kind == "number":
            return _constant(float(text) if "." in text else int(text))
        if kind == "text":
            return _constant(text[1:-1])
        if kind != "name" or text == "in":
            raise self._refusal(f"a value is missing before {text!r}")
        return _constant(LITERALS[text]) if text in LITERALS else lambda values: values(text)

    def _list(self) -> Node:
        items: list[Node] = []
        while not self._take("]"):
            if items:
                self._expect(",")
            items.append(self._or())
        return lambda values: [item(values) for item in items]

    def _take(self, text: str) -> bool:
        """Whether the next token is that sign, which is then gone."""
        if self._tokens and self._tokens[-1][1] == text and self._tokens[-1][0] != "text":
            self._tokens.pop()
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._refusal(f"{text!r} is missing")

    def _refusal(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"condition {self._text!r}: {what}")


def _constant(value: Any) -> Node:
    return lambda _: value


def _negated(node: Node) -> Node:
    return lambda values: not is_truthy(node(values))
