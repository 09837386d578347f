"""Use cases of templates: what there is to deploy."""

from collections.abc import Sequence

from server.domain.publishing import Published, publish
from server.domain.templates import Template
from server.errors import NotFound
from server.providers.templates.catalog import Catalog


class TemplatesService:
    """Answers from the catalog, which does not change while the server runs. All organizations see the same."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._published = tuple(publish(template) for template in catalog.all())

    def all(self) -> Sequence[Template]:
        """Every template."""
        return self._catalog.all()

    def get(self, template_id: str) -> Template:
        """One template. Raises NotFound."""
        found = self._catalog.get(template_id)
        if found is None:
            raise NotFound("template", template_id)
        return found

    def published(self) -> Sequence[Published]:
        """Every template, for engines that are not ours."""
        return self._published
