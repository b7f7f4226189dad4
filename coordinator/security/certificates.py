"""The names in a client's certificate, as gRPC has verified and parsed it."""

from collections.abc import Iterable, Mapping, Sequence

from coordinator.security.caller import Identity

# The kinds of names: the property of gRPC's auth context, and what goes before it in an identity.
_KINDS = {
    "spiffe": ("peer_spiffe_id", ""),
    "uri": ("peer_uri", "uri:"),
    "dns": ("peer_dns", "dns:"),
    "email": ("peer_email", "email:"),
    "common_name": ("x509_common_name", "cn:"),
}
KINDS = tuple(_KINDS)

AuthContext = Mapping[str, Sequence[bytes]]


def is_tls(auth_context: AuthContext) -> bool:
    """Return whether the connection of a call is encrypted."""
    return list(auth_context.get("transport_security_type", ())) == [b"ssl"]


def certificate_identity(auth_context: AuthContext, kinds: Iterable[str]) -> Identity | None:
    """Return the identity of a client's certificate; None: there is none, or it has no such name."""
    names: list[str] = []
    for kind in kinds:
        key, prefix = _KINDS[kind]
        names += [prefix + raw.decode(errors="replace") for raw in auth_context.get(key, ())]
    return Identity(tuple(names), "certificate") if names and is_tls(auth_context) else None
