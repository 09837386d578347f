"""The templates that there are: read from files when the server starts, and never changed while it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

from server.domain.templates import Template
from server.errors import FieldViolation, InvalidArgument
from server.providers.templates.reading import read_folder

BUILT_IN = Path(__file__).parents[2] / "templates"


class Catalog:
    """All templates, by id."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._by_id = {template.id: template for template in templates}

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Self:
        """Reads every `<name>/template.json` of the folders, in their order. Raises TemplateInvalid."""
        return cls([template for folder in folders for template in read_folder(folder)])

    def get(self, template_id: str) -> Template | None:
        """The template of that id."""
        return self._by_id.get(template_id)

    def all(self) -> Sequence[Template]:
        """Every template, in the order of folders and names."""
        return tuple(self._by_id.values())

    def check_config(self, template: Template, config: Mapping[str, object]) -> Mapping[str, object]:
        """The config with its defaults filled in. Raises InvalidArgument, which names fields such as `config.url`."""
        properties: Mapping[str, Any] = template.config.get("properties") or {}  # type: ignore[assignment]
        defaults = {name: field["default"] for name, field in properties.items() if "default" in field}
        whole = {**defaults, **config}
        validator = Draft202012Validator(dict(template.config), registry=Registry())
        violations = [violation for error in validator.iter_errors(whole) for violation in _violations(error)]
        if violations:
            raise InvalidArgument(violations)
        return whole


def _violations(error: ValidationError) -> list[FieldViolation]:
    return [FieldViolation(field=error.json_path.replace("$", "config", 1), description=error.message)]
