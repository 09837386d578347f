"""Templates: ready-made workflows, and how one becomes the sequence of an engine.

A template's sequence and trigger hold placeholders of the control plane, `${config.x}` and `${secrets.x}`, which are
filled in once, when it is deployed. The engine's own, `{{context.data.x}}`, pass as they are: it fills them in for each
run.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

CONFIG = "config"
SECRETS = "secrets"
PLACEHOLDER = re.compile(r"\$\{(config|secrets)\.([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretField:
    """A secret that a template needs: it goes to the engine's credential store, and nowhere else."""

    name: str
    description: str
    required: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A ready-made workflow.

    `config` is the JSON Schema of what whoever deploys it may choose, an object with descriptions and defaults.
    `trigger` is `{"type": "webhook"}`, or `{"type": "schedule", "cron", "timezone"}`; a scheduled one has its webhook
    too, which starts a run at once. `sequence` is the engine's authoring form, without id, version, tenant and time.
    """

    id: str
    name: str  # also what a deployment of it is called by default
    description: str
    tags: tuple[str, ...]
    plan: str  # a plan may deploy it if its `templates` name this one
    config: Mapping[str, object]
    secrets: tuple[SecretField, ...]
    trigger: Mapping[str, object]
    sequence: Mapping[str, object]


class _Absent:
    """Stands for a value that was not given."""


_ABSENT: Final = _Absent()


def render(
    template: Template, *, config: Mapping[str, object], credentials: Mapping[str, str], name: str
) -> dict[str, Any]:
    """The sequence of a deployment, which the engine will know by `name`.

    `config` has the defaults filled in (Catalog.check_config); `credentials` maps the name of a secret to the id of its
    credential in the engine, which reads the secret itself when a step needs it. A key or list item whose text names an
    optional value that was not given is left out: an optional header is an ordinary one that names an optional secret.
    """
    filled = _fill(template.sequence, {CONFIG: config, SECRETS: _references(credentials)})
    return {**filled, "name": name}


def render_trigger(template: Template, *, config: Mapping[str, object]) -> dict[str, Any]:
    """The trigger of a deployment: `Template.trigger` with the config filled in. Triggers know no secrets."""
    filled: dict[str, Any] = _fill(template.trigger, {CONFIG: config, SECRETS: {}})
    return filled


def placeholders(value: object) -> Iterator[tuple[str, str]]:
    """Each placeholder within a value: ("config", "url"), ("secrets", "api_token")."""
    if isinstance(value, str):
        yield from ((match[1], match[2]) for match in PLACEHOLDER.finditer(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from placeholders(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from placeholders(item)


def _references(credentials: Mapping[str, str]) -> dict[str, str]:
    return {name: f"credentials://{credential_id}" for name, credential_id in credentials.items()}


def _fill(value: Any, given: Mapping[str, Mapping[str, object]]) -> Any:
    """Each text is gone through once, so that a value which looks like a placeholder stays the text that it is."""
    if isinstance(value, str):
        return _fill_text(value, given)
    if isinstance(value, Mapping):
        filled = {key: _fill(item, given) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not _ABSENT}
    if isinstance(value, list | tuple):
        return [item for item in (_fill(one, given) for one in value) if item is not _ABSENT]
    return value


def _fill_text(text: str, given: Mapping[str, Mapping[str, object]]) -> Any:
    if any(name not in given[kind] for kind, name in placeholders(text)):
        return _ABSENT
    whole = PLACEHOLDER.fullmatch(text)
    if whole:
        return given[whole[1]][whole[2]]
    return PLACEHOLDER.sub(lambda match: _as_text(given[match[1]][match[2]]), text)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
