"""Reads the credential that a request brings."""

from collections.abc import Sequence


class SeveralCredentials(Exception):
    """More than one Authorization header: whichever counts, somebody might read the other."""


def bearer(authorization: Sequence[bytes]) -> str | None:
    """The bearer token of the Authorization headers, if there is one. Raises SeveralCredentials."""
    if not authorization:
        return None
    if len(authorization) > 1:
        raise SeveralCredentials
    scheme, _, token = authorization[0].strip().partition(b" ")
    return (token.strip().decode("latin-1") or None) if scheme.lower() == b"bearer" else None
