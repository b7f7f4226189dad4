"""Static tokens: `tcc_ID_RANDOM`. The configuration holds only the SHA-256 of a token, and its expiry.

A token has 256 random bits. So its plain hash cannot be reversed, and needs neither salt nor cost.
"""

import hmac
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256

from msgspec import Struct

from coordinator.security.caller import Identity

PREFIX = "tcc_"
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_RANDOM_BYTES = 32


class StaticToken(Struct, frozen=True, kw_only=True):
    """What the configuration knows of a token."""

    sha256: str
    # Seconds since the Unix epoch.
    expires_at: float


def new_token(token_id: str) -> str:
    """Return a new token."""
    return f"{PREFIX}{token_id}_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def token_hash(token: str) -> str:
    """Return what the configuration holds of a token."""
    return sha256(token.encode()).hexdigest()


def verify_token(token: str, known: Mapping[str, StaticToken], now: float) -> tuple[Identity, float] | None:
    """Return the identity that a static token proves, and its expiry; None: it is not accepted."""
    token_id = token.removeprefix(PREFIX).partition("_")[0]
    expected = known.get(token_id)
    if expected is None or not hmac.compare_digest(expected.sha256, token_hash(token)):
        return None
    identity = Identity((f"token:{token_id}",), "token")
    return (identity, expected.expires_at) if now < expected.expires_at else None
