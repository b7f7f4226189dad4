"""The identity that a client's certificate proves."""

import math
from collections.abc import Iterable

from cryptography.x509 import load_pem_x509_certificate

from coordinator.security.caller import Identity
from tcc._internal.certificate_names import KINDS, AuthContext, certificate_names, is_tls

__all__ = ["KINDS", "AuthContext", "certificate_end", "certificate_identity", "is_tls"]


def certificate_identity(auth_context: AuthContext, kinds: Iterable[str]) -> Identity | None:
    """Return the identity of a client's certificate; None: there is none, or it has no such name."""
    names = certificate_names(auth_context, kinds)
    return Identity(names, "certificate") if names else None


def certificate_end(auth_context: AuthContext) -> float:
    """Return when a client's certificate expires, in seconds since the Unix epoch; without one: never."""
    shown = auth_context.get("x509_pem_cert")
    if not shown:
        return math.inf
    return load_pem_x509_certificate(shown[0]).not_valid_after_utc.timestamp()
