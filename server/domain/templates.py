"""Templates: ready-made workflows, and how one becomes the sequence of an engine.

A template's sequence and trigger hold placeholders of the control plane, which are filled in once, when it is deployed.
The engine's own, `{{context.data.x}}`, pass as they are: it fills them in for each run.

${config.x}        the value; of its own type where it is the whole text
${config.x|ms}     seconds as whole milliseconds, in which the engine counts
${config.x|json}   the value as JSON text, to stand within a body
${secrets.x}       a reference to the credential, which the engine follows where it is a whole text of a step's params
{"$each": "x", "$do": […]}   in place of a list: one more of what is in `$do` for each item of the config field x, in
                   which ${item} is the item, ${item|json} its JSON text, and ${index} its number from 1 on
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

CONFIG = "config"
SECRETS = "secrets"
ITEM = "item"
INDEX = "index"
EACH, DO = "$each", "$do"
PLACEHOLDER = re.compile(r"\$\{(?:(config|secrets)\.([a-z][a-z0-9_]*)|(item|index))(?:\|(ms|json))?\}")


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
    author: str = "orch8-cloud"


class _Absent:
    """Stands for a value that was not given."""


_ABSENT: Final = _Absent()
_Given = Mapping[tuple[str, str], object]


def render(
    template: Template, *, config: Mapping[str, object], credentials: Mapping[str, str], name: str
) -> dict[str, Any]:
    """The sequence of a deployment, which the engine will know by `name`.

    `config` has the defaults filled in (Catalog.check_config); `credentials` maps the name of a secret to the id of its
    credential in the engine, which reads the secret itself when a step needs it. A key or list item whose text names an
    optional value that was not given is left out: an optional header is an ordinary one that names an optional secret.
    """
    given = {(CONFIG, key): value for key, value in config.items()}
    given |= {(SECRETS, key): f"credentials://{credential_id}" for key, credential_id in credentials.items()}
    return {**_fill(template.sequence, given), "name": name}


def render_trigger(template: Template, *, config: Mapping[str, object]) -> dict[str, Any]:
    """The trigger of a deployment: `Template.trigger` with the config filled in. Triggers know no secrets."""
    filled: dict[str, Any] = _fill(template.trigger, {(CONFIG, key): value for key, value in config.items()})
    return filled


def defaults(template: Template) -> dict[str, object]:
    """What the config fields are that nobody chooses."""
    return {name: field["default"] for name, field in fields(template).items() if "default" in field}


def example(template: Template) -> dict[str, object]:
    """A config that could be: the defaults, and the first example of each field that must be chosen."""
    chosen = {name: field["examples"][0] for name, field in fields(template).items() if name in required(template)}
    return {**chosen, **defaults(template)}


def fields(template: Template) -> Mapping[str, Mapping[str, Any]]:
    """The schemas of the config fields, by name."""
    found: Any = template.config.get("properties", {})
    return dict(found)


def required(template: Template) -> frozenset[str]:
    """The config fields that must be chosen."""
    names: Any = template.config.get("required", ())
    return frozenset(names)


def placeholders(value: object) -> Iterator[re.Match[str]]:
    """Each placeholder within a value."""
    if isinstance(value, str):
        yield from PLACEHOLDER.finditer(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from placeholders(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from placeholders(item)


def _fill(value: Any, given: _Given) -> Any:
    """Each text is gone through once, so that a value which looks like a placeholder stays the text that it is."""
    if isinstance(value, str):
        return _fill_text(value, given)
    if isinstance(value, Mapping):
        return _each(value, given) if EACH in value else _object(value, given)
    if isinstance(value, list | tuple):
        return [item for item in (_fill(one, given) for one in value) if item is not _ABSENT]
    return value


def _object(value: Mapping[str, Any], given: _Given) -> dict[str, Any]:
    filled = {key: _fill(item, given) for key, item in value.items()}
    return {key: item for key, item in filled.items() if item is not _ABSENT}


def _each(value: Mapping[str, Any], given: _Given) -> list[Any]:
    items: Any = given.get((CONFIG, value[EACH]), ())
    return [
        _fill(value[DO], {**given, (ITEM, ""): item, (INDEX, ""): number}) for number, item in enumerate(items, start=1)
    ]


def _fill_text(text: str, given: _Given) -> Any:
    if any(_key(match) not in given for match in PLACEHOLDER.finditer(text)):
        return _ABSENT
    whole = PLACEHOLDER.fullmatch(text)
    if whole:
        return _value(whole, given)
    return PLACEHOLDER.sub(lambda match: _as_text(_value(match, given)), text)


def _key(match: re.Match[str]) -> tuple[str, str]:
    return (match[3], "") if match[3] else (match[1], match[2])


def _value(match: re.Match[str], given: _Given) -> Any:
    value: Any = given[_key(match)]
    if match[4] == "ms":
        return round(value * 1000)
    return json.dumps(value, ensure_ascii=False) if match[4] == "json" else value


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
