"""Bugs of who may do what: each opens something that is closed."""

from functools import partial

from proof.mutants.mutant import Mutant, selection

_permission = partial(
    Mutant,
    breaks="each method is allowed to those alone who need it",
    check=selection("tests/security/test_permissions.py"),
)
_credential = partial(
    Mutant,
    breaks="a credential that is not valid proves nothing",
    check=selection("tests/security/test_authentication.py"),
)

MUTANTS = (
    _permission(
        name="a method needs no identity",
        definition="_ADMIN_SERVICE",
        old='{"PauseParticipant": _for_all(Role.OPERATE)}',
        new='{"PauseParticipant": Permission(Need.NOTHING)}',
    ),
    _permission(
        name="an operator of one tenant reads the audit chain",
        definition="_ADMIN_SERVICE",
        old='{"ListAuditRecords": _for_all(Role.READ)}',
        new='{"ListAuditRecords": _for_tenants(Role.READ)}',
    ),
    _permission(
        name="a method that is not in the table is open",
        definition="missing",
        old="permission is None",
        new="False and permission is None",
    ),
    _credential(
        name="a certificate comes before a bad token",
        definition="Authenticator.authenticate",
        old="if given:\n    return self._by_token(given, uses_tls=uses_tls)",
        new="""
if given and certificate_identity(auth_context(), self.policy.certificate_names) is None:
    return self._by_token(given, uses_tls=uses_tls)
""",
    ),
    _credential(
        name="a verified token outlives its expiry",
        definition="Authenticator._by_token",
        old="proof is not None and now < proof.good_until",
        new="proof is not None",
    ),
)
