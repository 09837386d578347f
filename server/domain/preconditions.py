"""If-Match: a change only where the resource is still as the caller has read it (RFC 9110, 13.1.1)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from server.errors import FieldViolation, InvalidArgument, VersionMismatch

# RFC 9110, 8.8.3. Commas may stand within the quotes, and lists may have empty members (5.6.1).
_MEMBER = re.compile(r'[ \t]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")?[ \t]*(?:,|\Z)')


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
        tags = frozenset(_tags(text))
        if not tags:
            raise _malformed()
        return cls(tags)

    def check(self, resource: str, revision: int) -> None:
        """Raises VersionMismatch. The comparison is the strong one: a weak tag (W/…) matches nothing."""
        if self.tags is not None and entity_tag(revision) not in self.tags:
            raise VersionMismatch(resource, revision)


def _tags(text: str) -> Iterator[str]:
    """The members of the list, one after the other: its time must not grow faster than its length."""
    position = 0
    while position < len(text):
        member = _MEMBER.match(text, position)
        if member is None:
            raise _malformed()
        if member[1] is not None:
            yield member[1]
        position = member.end()


def _malformed() -> InvalidArgument:
    what = 'is no entity tag: send the resource_version in double quotes, as in "7", several of them, or *'
    return InvalidArgument([FieldViolation(field="if-match", description=what)])


ANY = IfMatch()
