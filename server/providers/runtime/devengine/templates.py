"""Fills in the parameters of a step: `{{context.data.x}}`, `{{outputs.step.field|default}}`, `credentials://id/field`.

The engine's rules: a text that is one single placeholder becomes the value itself, otherwise values are written into
the text; a path that leads nowhere is null, or the default behind `|`; an unknown root fails the step. A reference to a
credential is the whole text, never a part of one, and a credential that is JSON becomes what the JSON says.
Each authored text is gone through once, so that neither a placeholder nor a reference inside of caller data, an
output or a secret is ever followed.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from server.providers.runtime.devengine.models import REDACTED, JsonObject

PLACEHOLDER = re.compile(r"\{\{((?:(?!\}\}).)*)\}\}")
REFERENCE = re.compile(r"credentials://(?P<id>[A-Za-z0-9_.-]+)(?:/(?P<field>[A-Za-z0-9_.-]+))?")
SHORTEST_SCRUBBED = 4


class TemplateError(Exception):
    """A placeholder or reference cannot be followed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What placeholders can see. `secret` is absent for handlers whose output is their parameters."""

    context: JsonObject
    outputs: JsonObject
    secret: Callable[[str, str | None], str] | None = None
    used: set[str] = field(default_factory=set)

    def fill(self, value: Any) -> Any:
        """The value with every placeholder replaced. Raises TemplateError."""
        if isinstance(value, str):
            return self._fill_text(value)
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        return value

    def scrub(self, value: Any) -> Any:
        """The value without the secrets that were filled in, for what a server echoes back."""
        if isinstance(value, str):
            for secret in sorted(self.used, key=len, reverse=True):
                value = value.replace(secret, REDACTED)
            return value
        if isinstance(value, dict):
            return {self.scrub(key): self.scrub(item) for key, item in value.items()}
        return [self.scrub(item) for item in value] if isinstance(value, list) else value

    def _fill_text(self, text: str) -> Any:
        if self.secret is not None and (reference := REFERENCE.fullmatch(text)):
            return self._reveal(self.secret(reference["id"], reference["field"]))
        whole = PLACEHOLDER.fullmatch(text)
        if whole:
            return self._follow(whole[1])
        return PLACEHOLDER.sub(lambda match: _as_text(self._follow(match[1])), text)

    def _reveal(self, secret: str) -> Any:
        try:
            value = json.loads(secret)
        except ValueError:
            value = secret
        for text in (secret, value):
            if isinstance(text, str) and len(text) >= SHORTEST_SCRUBBED:
                self.used.update({text, json.dumps(text)[1:-1]})
        return value

    def _follow(self, expression: str) -> Any:
        path, bar, default = (part.strip() for part in expression.partition("|"))
        root, *steps = path.split(".")
        if root == "outputs":
            found = walk(self.outputs, steps)
        elif root == "context" and steps and steps[0] in ("data", "config"):
            found = walk(self.context, steps)
        else:
            raise TemplateError(f"unknown template root: {path}")
        return default if found is None and bar else found


def walk(value: Any, steps: list[str]) -> Any:
    """What is found at the end of a path; None where it leads nowhere."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
