"""Reads the credential that a request brings."""

import re
from collections.abc import Sequence

# A comma, and what could be the beginning of another credential. Parameters of one (Digest) have an = instead.
_ANOTHER = re.compile(rb",\s*(?:[A-Za-z][A-Za-z0-9-]*\s+\S|$)")


class SeveralCredentials(Exception):
    """More than one credential: whichever counts, somebody might read the other."""


def bearer(authorization: Sequence[bytes]) -> str | None:
    """The bearer token of the Authorization headers, if there is one. Raises SeveralCredentials.

    Envoy hands several headers on as one, joined by commas, so they are read like that here too.
    """
    if not authorization:
        return None
    whole = b",".join(filter(None, (value.strip() for value in authorization)))
    scheme, _, token = whole.partition(b" ")
    is_bearer = scheme.lower() == b"bearer"
    if b"," in whole and (is_bearer or _ANOTHER.search(whole)):
        raise SeveralCredentials
    return (token.strip().decode("latin-1") or None) if is_bearer else None
