"""The JSON Schema of a template's config: which schemas a template may have, and what a config breaks of one."""

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

from server.domain.schedules import is_cron
from server.domain.urls import MAX_URL
from server.errors import FieldViolation

MAX_FIELDS = 40
FIELD_KEYS = frozenset(
    {
        "type",
        "title",
        "description",
        "default",
        "examples",
        "enum",
        "format",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "items",
        "minItems",
        "maxItems",
        "uniqueItems",
    }
)
ITEM_KEYS = FIELD_KEYS - {"items", "minItems", "maxItems", "uniqueItems", "default", "examples"}
TYPES = ("string", "integer", "number", "boolean", "array")
# What keeps a value that somebody chose within bounds.
BOUNDS = {"string": ("maxLength", "enum"), "integer": ("maximum",), "number": ("maximum",), "array": ("maxItems",)}
FORMATS = FormatChecker(formats=())


class SchemaInvalid(Exception):
    """A config schema is broken. The message names the field and what is wrong."""


@FORMATS.checks("uri")
def _is_url(value: object) -> bool:
    if not isinstance(value, str):
        return True
    scheme, _, rest = value.partition("://")
    return scheme in ("http", "https") and len(value) <= MAX_URL and bool(rest) and not any(map(str.isspace, value))


@FORMATS.checks("cron")
def _is_cron(value: object) -> bool:
    return not isinstance(value, str) or is_cron(value)


WORDS = {
    "uri": "must be an address that begins with https:// or http://",
    "cron": "must be five fields: minute, hour, day, month and weekday, such as 0 9 * * MON-FRI",
}


def violations(schema: Mapping[str, Any], config: Mapping[str, Any]) -> list[FieldViolation]:
    """What a config breaks, by field: `config.url`. No value is repeated: it may be a secret in the wrong place."""
    validator = Draft202012Validator(dict(schema), registry=Registry(), format_checker=FORMATS)
    found = [violation for error in validator.iter_errors(config) for violation in _violations(error)]
    return sorted(found, key=lambda violation: violation.field)


def check(schema: Any) -> None:
    """Raises SchemaInvalid for a schema that a template may not have."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise SchemaInvalid("config must be a JSON Schema of type object")
    if unknown := sorted(set(schema) - {"type", "properties", "required", "additionalProperties"}):
        raise SchemaInvalid(f"config: there is no key {unknown[0]!r}")
    if schema.get("additionalProperties") is not False:
        raise SchemaInvalid("config.additionalProperties must be false")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise SchemaInvalid(f"config is no JSON Schema: {error.message}") from None
    properties = schema.get("properties", {})
    if len(properties) > MAX_FIELDS:
        raise SchemaInvalid(f"config has more than {MAX_FIELDS} fields")
    for name, field in properties.items():
        _check_field(name, field, is_required=name in schema.get("required", []))
    for name in schema.get("required", []):
        if name not in properties:
            raise SchemaInvalid(f"config.required names {name!r}, which is no field")


def _check_field(name: str, field: Any, *, is_required: bool) -> None:
    _check_keys(name, field, FIELD_KEYS)
    if not isinstance(field.get("description"), str) or not field["description"].strip():
        raise SchemaInvalid(f"config.{name} needs a description: it is what its user reads")
    if field["type"] == "array":
        _check_keys(f"{name}[]", field.get("items"), ITEM_KEYS)
    if is_required and "default" in field:
        raise SchemaInvalid(f"config.{name} has a default, so it is not required")
    if is_required and not field.get("examples"):
        raise SchemaInvalid(f"config.{name} must be chosen, so it needs an example")
    values = [*field.get("examples", []), *([field["default"]] if "default" in field else [])]
    for value in values:
        broken = violations({"type": "object", "properties": {name: field}}, {name: value})
        if broken:
            raise SchemaInvalid(f"{broken[0].field}: the default or an example {broken[0].description}")


def _check_keys(name: str, field: Any, known: frozenset[str]) -> None:
    if not isinstance(field, dict):
        raise SchemaInvalid(f"config.{name} must be a schema")
    if unknown := sorted(set(field) - known):
        raise SchemaInvalid(f"config.{name}: there is no key {unknown[0]!r}")
    if field.get("type") not in TYPES:
        raise SchemaInvalid(f"config.{name}: its type must be one of {', '.join(TYPES)}")
    if field.get("format", "uri") not in WORDS:
        raise SchemaInvalid(f"config.{name}: its format must be one of {', '.join(WORDS)}")
    bounds = BOUNDS.get(field["type"], ())
    if bounds and "format" not in field and not any(bound in field for bound in bounds):
        raise SchemaInvalid(f"config.{name} needs a bound: {' or '.join(bounds)}")


def _violations(error: ValidationError) -> Iterator[FieldViolation]:
    schema: Any = error.schema
    rule: Any = error.validator_value
    instance: Any = error.instance
    where = "config" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    if error.validator == "required":
        # jsonschema tells of each missing field by an error of its own, which names it first.
        name = next(name for name in rule if error.message.startswith(repr(name)))
        described = schema.get("properties", {}).get(name, {}).get("description", "")
        yield FieldViolation(field=f"{where}.{name}", description=f"is required: {described}")
    elif error.validator == "additionalProperties":
        known = sorted(schema.get("properties", {}))
        for name in sorted(set(instance) - set(known)):
            has = f"it has {', '.join(known)}" if known else "it has none"
            yield FieldViolation(
                field=f"{where}.{name}"[:200], description=f"is no config field of the template; {has}"
            )
    else:
        yield FieldViolation(field=where, description=_words(error))


def _words(error: ValidationError) -> str:
    """What to write instead, in words that do not repeat what was written."""
    limit: Any = error.validator_value
    match error.validator:
        case "type":
            return f"must be {'an' if limit[0] in 'aio' else 'a'} {limit}"
        case "enum":
            return f"must be one of {', '.join(map(str, limit))}"
        case "format":
            return WORDS[limit]
        case "pattern":
            return f"must match {limit}"
        case "minimum" | "maximum":
            return f"must be at {'least' if error.validator == 'minimum' else 'most'} {limit}"
        case "minLength" | "maxLength":
            return f"must have at {'least' if error.validator == 'minLength' else 'most'} {limit} characters"
        case "minItems" | "maxItems":
            return f"must have at {'least' if error.validator == 'minItems' else 'most'} {limit} items"
        case "uniqueItems":
            return "must not have the same item twice"
        case _:
            return f"breaks the rule {error.validator}: {limit}"
