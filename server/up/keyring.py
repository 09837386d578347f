"""The secrets of a data folder: made at the first `up`, and the same ever after."""

import base64
import json
import re
import secrets
import string
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

from server.configuration import StartFailed
from server.up.files import write_private

_LETTERS = string.ascii_lowercase + string.digits
_ORG_ID = re.compile(r"org_[a-z0-9]{20}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """What a restart must find again. Losing `secret_key` loses the secrets of every instance."""

    supabase_jwt_secret: str  # signs the development user's session
    secret_key: str  # seals secrets in the database
    dataplane_token: str  # proxy and server know each other by it
    user_id: str
    org_id: str
    api_key: str = ""  # empty until it is created

    @classmethod
    def new(cls) -> Self:
        """Fresh secrets, a user and an organization."""
        return cls(
            supabase_jwt_secret=secrets.token_urlsafe(32),
            secret_key=base64.b64encode(secrets.token_bytes(32)).decode(),
            dataplane_token=secrets.token_urlsafe(32),
            user_id=str(uuid.uuid4()),
            org_id="org_" + "".join(secrets.choice(_LETTERS) for _ in range(20)),
        )

    @classmethod
    def open(cls, path: Path) -> Self:
        """The secrets of a file, which is made if there is none. Raises StartFailed; never replaces a broken file."""
        try:
            text = path.read_text()
        except FileNotFoundError:
            made = cls.new()
            made.save(path)
            return made
        except (OSError, UnicodeDecodeError) as error:
            raise StartFailed(f"The secrets file {path} cannot be read: {error}.") from error
        return cls._parse(text, path)

    @classmethod
    def _parse(cls, text: str, path: Path) -> Self:
        try:
            found = json.loads(text)
            kept = cls(**{field.name: found[field.name] for field in fields(cls)})
            if not kept._is_whole():
                raise ValueError("a value is not what it should be")
        except (ValueError, KeyError, TypeError) as error:
            raise StartFailed(
                f"The secrets file {path} is broken; restore it from a copy, or choose another --data-dir."
            ) from error
        return kept

    def _is_whole(self) -> bool:
        if not all(isinstance(value, str) for value in asdict(self).values()):
            return False
        uuid.UUID(self.user_id)
        raw = base64.b64decode(self.secret_key, validate=True)
        long_enough = min(len(self.supabase_jwt_secret), len(self.dataplane_token)) >= 16
        return len(raw) == 32 and long_enough and _ORG_ID.fullmatch(self.org_id) is not None

    def with_api_key(self, api_key: str, path: Path) -> "Keyring":
        """The same with a new API key, saved."""
        changed = replace(self, api_key=api_key)
        changed.save(path)
        return changed

    def save(self, path: Path) -> None:
        """Writes the file, for this user only."""
        write_private(path, asdict(self))
