"""How long the certificates in use are valid."""

import math
from pathlib import Path
from typing import NamedTuple

from cryptography import x509


class Validity(NamedTuple):
    """How long a certificate is valid, in seconds; NaN: it cannot be read."""

    left_s: float
    lifetime_s: float


def validity(file: Path, now: float) -> Validity:
    """Return the validity of the certificate of a file that expires first.

    `now`: seconds since the Unix epoch.
    """
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return Validity(math.nan, math.nan)
    first = min(found, key=lambda one: one.not_valid_after_utc)
    expires_at = first.not_valid_after_utc.timestamp()
    return Validity(expires_at - now, expires_at - first.not_valid_before_utc.timestamp())
