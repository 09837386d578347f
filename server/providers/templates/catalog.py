"""The templates that there are: read from files when the server starts, and never changed while it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from server.domain.plans import Plans
from server.domain.templates import Template, defaults
from server.errors import InvalidArgument
from server.providers.templates import schemas
from server.providers.templates.reading import FILE, TemplateInvalid, read_folder

BUILT_IN = Path(__file__).parents[2] / "templates"
MAX_TEMPLATES = 1000


class Catalog:
    """All templates, by id."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._by_id = {template.id: template for template in templates}

    @classmethod
    def load(cls, folders: Sequence[Path], plans: Plans | None = None) -> Self:
        """Reads every `<name>/template.json` of the folders, in their order. Raises TemplateInvalid.

        With `plans`, a template that none of them may deploy is refused; where it is one of the package, whose plans an
        operator need not have, it is left out.
        """
        taken: dict[str, Path] = {}
        templates: list[Template] = []
        for folder in folders:
            for template in read_folder(folder):
                file = folder / template.name / FILE
                for name in (template.id, template.name):
                    if name in taken:
                        raise TemplateInvalid(file, f"{name!r} is taken by {taken[name]}")
                    taken[name] = file
                if plans is None or plans.deploys(template.plan):
                    templates.append(template)
                elif folder != BUILT_IN:
                    raise TemplateInvalid(file, f"no plan may deploy templates of the plan {template.plan!r}")
        if len(templates) > MAX_TEMPLATES:
            raise TemplateInvalid(folders[-1], f"there are more than {MAX_TEMPLATES} templates")
        return cls(templates)

    def get(self, template_id: str) -> Template | None:
        """The template of that id."""
        return self._by_id.get(template_id)

    def all(self) -> Sequence[Template]:
        """Every template, in the order of folders and names."""
        return tuple(self._by_id.values())

    def check_config(self, template: Template, config: Mapping[str, object]) -> Mapping[str, object]:
        """The config with its defaults filled in. Raises InvalidArgument, which names fields such as `config.url`."""
        whole = {**defaults(template), **config}
        if broken := schemas.violations(template.config, whole):
            raise InvalidArgument(broken)
        return whole
