"""If-Match: a change only where the resource is still as the caller has read it (RFC 9110, 13.1.1)."""

import re
from dataclasses import dataclass

from server.errors import FieldViolation, InvalidArgument, VersionMismatch

# RFC 9110, 8.8.3. Commas may stand within the quotes, and lists may have empty members (5.6.1).
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,(?:[ \t,]*{_TAG})?)*[ \t,]*")
_ONE = re.compile(_TAG)


def entity_tag(revision: int) -> str:
    """The strong entity tag of a resource of this revision."""
    return f'"{revision}"'


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The tags of which one must be the resource's. None: any resource will do."""

    tags: frozenset[str] | None = None

    @classmethod
    def parse(cls, text: str | None) -> "IfMatch":
        """Reads the header's value; None where there is none. Raises InvalidArgument."""
        if text is None or text.strip(" \t") == "*":
            return ANY
        if _LIST.fullmatch(text) is None:
            what = 'is no entity tag: send the resource_version in double quotes, as in "7", several of them, or *'
            raise InvalidArgument([FieldViolation(field="if-match", description=what)])
        return cls(frozenset(_ONE.findall(text)))

    def check(self, resource: str, revision: int) -> None:
        """Raises VersionMismatch. The comparison is the strong one: a weak tag (W/…) matches nothing."""
        if self.tags is not None and entity_tag(revision) not in self.tags:
            raise VersionMismatch(resource, revision)


ANY = IfMatch()
