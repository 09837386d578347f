"""Reads template files, and refuses broken ones: what is wrong is said of the file, not found out by its first user."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.domain import sequences
from server.domain.templates import DO, EACH, SecretField, Template, example, fields, placeholders, render
from server.providers.templates import schemas

FILE = "template.json"
MAX_BYTES = 256 * 1024
MAX_DEPTH = 100
KEYS = ("id", "name", "description", "tags", "plan", "config", "secrets", "trigger", "sequence")
ID = re.compile(r"tmpl_[a-z0-9][a-z0-9_]{1,58}[a-z0-9]")
NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
FIELD = re.compile(r"[a-z][a-z0-9_]{0,39}")
# What looks like a placeholder of ours, so that a misspelt one is not sent to an engine as it is.
MEANT = re.compile(r"\$\{[^}]*\}?")
TRIGGERS = {"webhook": {"type"}, "schedule": {"type", "cron", "timezone"}}
MAX_TAGS, MAX_SECRETS = 10, 20


class TemplateInvalid(Exception):
    """A template file is broken: which, and why."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class _Wrong(Exception):
    """What is wrong with a template."""


def read_folder(folder: Path) -> Sequence[Template]:
    """The templates of a folder, by name. Raises TemplateInvalid, for a folder that has none too."""
    try:
        paths = sorted(
            path / FILE for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
        )
    except OSError as error:
        raise TemplateInvalid(folder, error.strerror or "cannot be read") from None
    if not paths:
        raise TemplateInvalid(folder, f"holds no template: each is a folder with a {FILE}")
    return [read_template(path) for path in paths]


def read_template(path: Path) -> Template:
    """The template of one file. Raises TemplateInvalid."""
    try:
        template = _template(_parsed(path))
        if template.name != path.parent.name:
            raise _Wrong(f"its folder must be named as the template is, {template.name!r}")
        return template
    except OSError as error:
        raise TemplateInvalid(path, error.strerror or "cannot be read") from None
    except (_Wrong, schemas.SchemaInvalid) as error:
        raise TemplateInvalid(path, str(error)) from None
    except sequences.SequenceInvalid as error:
        raise TemplateInvalid(path, f"sequence: {error}") from None


def _parsed(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise _Wrong(f"is larger than {MAX_BYTES} bytes")
    try:
        given = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise _Wrong("is nested too deeply") from None
    except ValueError as error:
        raise _Wrong(f"is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise _Wrong("must be an object")
    _check_depth(given, 0)
    return given


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise _Wrong(f"has the key {twice!r} twice in one object")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_depth(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Wrong("is nested too deeply")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _check_depth(item, depth + 1)


def _template(given: Mapping[str, Any]) -> Template:
    for key in KEYS:
        if key not in given:
            raise _Wrong(f"{key!r} is missing")
    _known("the template", given, {*KEYS, "author"})
    _check_texts(given)
    schemas.check(given["config"])
    _check_names("config", list(given["config"].get("properties", {})))
    template = Template(
        id=given["id"],
        name=given["name"],
        description=given["description"],
        tags=_tags(given["tags"]),
        plan=given["plan"],
        config=given["config"],
        secrets=_secrets(given["secrets"]),
        trigger=_trigger(given["trigger"]),
        sequence=given["sequence"],
        **({"author": given["author"]} if "author" in given else {}),
    )
    _check_placeholders(template)
    _check_sequence(template)
    return template


def _check_texts(given: Mapping[str, Any]) -> None:
    for key, most in (("description", 500), ("plan", 64), ("author", 100), ("id", 64), ("name", 63)):
        value = given.get(key, "x")
        if not isinstance(value, str) or not value.strip() or len(value) > most:
            raise _Wrong(f"{key!r} must be a text of 1 to {most} characters")
    if ID.fullmatch(given["id"]) is None:
        raise _Wrong("'id' must be tmpl_ and small letters, digits or underscores")
    if NAME.fullmatch(given["name"]) is None:
        raise _Wrong("'name' must be small letters and digits, with hyphens between words")
    for key in ("secrets", "tags"):
        if not isinstance(given[key], list):
            raise _Wrong(f"{key!r} must be a list")
    for key in ("trigger", "sequence"):
        if not isinstance(given[key], dict):
            raise _Wrong(f"{key!r} must be an object")


def _tags(given: list[Any]) -> tuple[str, ...]:
    if len(given) > MAX_TAGS or not all(isinstance(tag, str) and NAME.fullmatch(tag) for tag in given):
        raise _Wrong(f"'tags' must be at most {MAX_TAGS} words of small letters, digits and hyphens")
    return tuple(given)


def _secrets(given: list[Any]) -> tuple[SecretField, ...]:
    if len(given) > MAX_SECRETS:
        raise _Wrong(f"there are more than {MAX_SECRETS} secrets")
    for index, secret in enumerate(given):
        where = f"secrets[{index}]"
        if not isinstance(secret, dict) or set(secret) != {"name", "description", "required"}:
            raise _Wrong(f"{where} must have name, description and required, and nothing else")
        if not isinstance(secret["description"], str) or not secret["description"].strip():
            raise _Wrong(f"{where} needs a description: it is what its user reads")
        if not isinstance(secret["required"], bool):
            raise _Wrong(f"{where}.required must be true or false")
    _check_names("secrets", [secret["name"] for secret in given])
    return tuple(SecretField(**secret) for secret in given)


def _check_names(where: str, names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str) or FIELD.fullmatch(name) is None:
            raise _Wrong(f"{where}: {name!r} must be at most 40 small letters, digits and underscores")
        if names.count(name) > 1:
            raise _Wrong(f"{where}: there are two {name!r}")


def _trigger(given: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = given.get("type")
    if kind not in TRIGGERS:
        raise _Wrong(f"trigger.type must be one of {', '.join(TRIGGERS)}")
    if set(given) != TRIGGERS[kind] or not all(isinstance(value, str) for value in given.values()):
        raise _Wrong(f"a trigger of type {kind} must have the texts {', '.join(sorted(TRIGGERS[kind]))}, and no more")
    return given


def _check_placeholders(template: Template) -> None:
    """Every placeholder is spelt right and refers to what there is, and nothing that there is goes unused."""
    for text in _texts([template.sequence, template.trigger]):
        for meant in MEANT.finditer(text):
            if not list(placeholders(meant[0])):
                raise _Wrong(f"{meant[0]!r} is no placeholder")
    known = {("config", name) for name in fields(template)} | {("secrets", secret.name) for secret in template.secrets}
    used = {("config", name) for name in _repeated(template.sequence)}
    for match in [*placeholders(template.sequence), *placeholders(template.trigger)]:
        if match[1]:
            used.add((match[1], match[2]))
    for kind, name in sorted(used - known):
        raise _Wrong(f"the placeholder {kind}.{name} refers to nothing")
    for kind, name in sorted(known - used):
        raise _Wrong(f"{kind}.{name} is not used")
    _check_conversions(template)
    _check_secrets(template.sequence, in_params=False)
    if any(match[1] != "config" for match in placeholders(template.trigger)):
        raise _Wrong("trigger: only placeholders of the config may stand here")


def _check_conversions(template: Template) -> None:
    for match in [*placeholders(template.sequence), *placeholders(template.trigger)]:
        kind = fields(template).get(match[2] or "", {}).get("type")
        if match[4] and match[1] == "secrets":
            raise _Wrong(f"{match[0]}: a secret cannot be converted")
        if match[4] == "ms" and kind not in ("integer", "number"):
            raise _Wrong(f"{match[0]}: only numbers of seconds become milliseconds")


def _repeated(value: Any, *, inside: bool = False) -> Iterator[str]:
    """The config fields that `$each` goes through. Raises _Wrong where an item is named outside of one."""
    if isinstance(value, str) and not inside and any(match[3] for match in placeholders(value)):
        raise _Wrong(f"{value!r}: ${{item}} and ${{index}} stand within {DO!r}")
    if isinstance(value, dict) and EACH in value:
        if set(value) != {EACH, DO} or not isinstance(value[EACH], str) or not isinstance(value[DO], dict | list):
            raise _Wrong(f"{EACH!r} must name a config field, with {DO!r} beside it, and nothing else")
        if inside:
            raise _Wrong(f"{EACH!r} must not stand within another")
        yield value[EACH]
        yield from _repeated(value[DO], inside=True)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _repeated(item, inside=inside)


def _check_secrets(value: Any, *, in_params: bool) -> None:
    """The engine follows a reference to a credential only where it is a whole text of a step's params."""
    if isinstance(value, str):
        names = [match for match in placeholders(value) if match[1] == "secrets"]
        if names and (not in_params or names[0][0] != value):
            raise _Wrong(
                f"{value!r}: a secret must be a whole text within a step's params, or the engine does not see it"
            )
    elif isinstance(value, list):
        for item in value:
            _check_secrets(item, in_params=in_params)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_secrets(item, in_params=in_params or key == "params")


def _check_sequence(template: Template) -> None:
    """The engine takes the sequence, with every optional value given and with none of them."""
    if template.sequence.get("name") != template.name:
        raise _Wrong(f"sequence.name must be the template's, {template.name!r}")
    for name, field in fields(template).items():
        if name in _repeated(template.sequence) and field["type"] != "array":
            raise _Wrong(f"{EACH!r} names config.{name}, which is no list")
    credentials = {secret.name: f"cred-{secret.name}" for secret in template.secrets}
    needed = {secret.name: credentials[secret.name] for secret in template.secrets if secret.required}
    config = example(template)
    optional = {name: field["examples"][0] for name, field in fields(template).items() if field.get("examples")}
    for given, references in (({**optional, **config}, credentials), (config, needed)):
        sequences.check(render(template, config=given, credentials=references, name=template.name))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _known(where: str, value: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(value) - known):
        raise _Wrong(f"{where}: there is no key {unknown[0]!r}")
