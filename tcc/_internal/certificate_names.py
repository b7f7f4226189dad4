"""The names in the certificate of a call's sender, as gRPC has verified and parsed it."""

from collections.abc import Iterable, Mapping, Sequence

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


def certificate_names(auth_context: AuthContext, kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the printable names of these kinds, for they are shown and logged; none without TLS."""
    if not is_tls(auth_context):
        return ()
    names = (
        prefix + raw.decode(errors="replace")
        for key, prefix in (_KINDS[kind] for kind in kinds)
        for raw in auth_context.get(key, ())
    )
    return tuple(name for name in names if name.isprintable())
