"""The identity that a client's certificate proves."""

from collections.abc import Iterable

from coordinator.security.caller import Identity
from tcc._internal.certificate_names import KINDS, AuthContext, certificate_names, is_tls

__all__ = ["KINDS", "AuthContext", "certificate_identity", "is_tls"]


def certificate_identity(auth_context: AuthContext, kinds: Iterable[str]) -> Identity | None:
    """Return the identity of a client's certificate; None: there is none, or it has no such name."""
    names = certificate_names(auth_context, kinds)
    return Identity(names, "certificate") if names else None
