"""The pass of a request that was let in: what must stay true for as long as its answer goes on."""

from dataclasses import dataclass
from typing import Self

_NONE = "-"


class BadPass(Exception):
    """This is no pass of ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """Instance and organization, the mark of the policy that let the caller in (entries.Route), API key and its expiry.

    `key` is the key's SHA-256, `until` is in seconds since 1970. It travels with the request inside Envoy, as text, so
    that any proxy can watch the answer. It holds no secret.
    """

    instance_id: str
    org_id: str
    mark: str
    key: bytes | None = None
    until: float | None = None

    def text(self) -> str:
        """The pass as one line of visible ASCII."""
        key = _NONE if self.key is None else self.key.hex()
        return f"{self.instance_id} {self.org_id} {self.mark} {key} {_NONE if self.until is None else self.until}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `text` wrote. Raises BadPass."""
        try:
            instance_id, org_id, mark, key, until = text.split(" ")
            return cls(
                instance_id=instance_id,
                org_id=org_id,
                mark=mark,
                key=None if key == _NONE else bytes.fromhex(key),
                until=None if until == _NONE else float(until),
            )
        except ValueError:
            raise BadPass from None
