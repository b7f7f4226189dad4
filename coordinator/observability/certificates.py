"""How long the certificates in use are valid."""

import math
from pathlib import Path

from cryptography import x509


def seconds_left(file: Path, now: float) -> float:
    """Return the seconds until the first certificate of a file expires; NaN: it cannot be read.

    `now`: seconds since the Unix epoch.
    """
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return math.nan
    return min(one.not_valid_after_utc.timestamp() for one in found) - now
