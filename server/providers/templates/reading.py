"""Reads template files, and refuses broken ones."""

import json
from collections.abc import Sequence
from pathlib import Path

from server.domain.templates import SecretField, Template

FILE = "template.json"


class TemplateInvalid(Exception):
    """A template file is broken: which, and why."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


def read_folder(folder: Path) -> Sequence[Template]:
    """The templates of a folder, by name. Raises TemplateInvalid."""
    return [read_template(path) for path in sorted(folder.glob(f"*/{FILE}"))]


def read_template(path: Path) -> Template:
    """The template of one file. Raises TemplateInvalid."""
    try:
        given = json.loads(path.read_bytes())
        secrets = tuple(SecretField(**secret) for secret in given.pop("secrets"))
        return Template(**{**given, "tags": tuple(given["tags"])}, secrets=secrets)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TemplateInvalid(path, str(error)) from None
