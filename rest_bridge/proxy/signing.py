"""The signature without which an engine takes no webhook: v1, over timestamp, nonce and the exact body."""

import base64
import hashlib
import hmac
import os
import time

from rest_bridge.proxy.headers import SIGNATURE, Header

NONCE_BYTES = 16


def signature(secret: str, *, timestamp: str, nonce: str, body: bytes) -> str:
    """`v1=` and the unpadded base64url of HMAC-SHA256(secret, timestamp "." nonce "." body)."""
    digest = hmac.digest(secret.encode(), b"%s.%s.%s" % (timestamp.encode(), nonce.encode(), body), hashlib.sha256)
    return "v1=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def signed_headers(secret: str, body: bytes) -> list[Header]:
    """Headers that sign this body now, for one attempt: the nonce is single use."""
    timestamp, nonce = str(int(time.time())), os.urandom(NONCE_BYTES).hex()
    value = signature(secret, timestamp=timestamp, nonce=nonce, body=body)
    return [
        (b"x-trigger-timestamp", timestamp.encode()),
        (b"x-trigger-nonce", nonce.encode()),
        (SIGNATURE, value.encode()),
    ]
