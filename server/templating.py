"""The templates of package and operator, as the server reads them when it starts, and `orch8-cloud templates`."""

from collections.abc import Sequence
from pathlib import Path

from server.configuration import StartFailed
from server.domain.plans import Plans
from server.providers.templates.catalog import BUILT_IN, Catalog
from server.providers.templates.reading import TemplateInvalid


def read_catalog(folders: Sequence[Path], plans: Plans | None = None) -> Catalog:
    """The package's templates and those of further folders. Raises StartFailed, naming the file and what is wrong."""
    try:
        return Catalog.load([BUILT_IN, *folders], plans)
    except TemplateInvalid as error:
        raise StartFailed(f"ORCH8_TEMPLATE_DIRS: {error}") from error


def list_templates(folder: Path | None) -> str:
    """A line for each template of a folder, or of the package. Raises StartFailed for one that is broken."""
    try:
        found = Catalog.load([BUILT_IN] if folder is None else [BUILT_IN, folder]).all()
    except TemplateInvalid as error:
        raise StartFailed(str(error)) from error
    own = Catalog.load([BUILT_IN]).all() if folder is not None else ()
    known = {template.id for template in own}
    return "\n".join(f"{one.id}  {one.plan}  {one.description}" for one in found if one.id not in known)
