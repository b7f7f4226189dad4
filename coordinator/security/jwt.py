"""JSON Web Tokens, verified by joserfc. The configuration alone decides which algorithms are accepted."""

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import InvalidKeyIdError, JoseError, SecurityWarning
from joserfc.jwk import Key
from msgspec import Struct

from coordinator.security.caller import Identity
from coordinator.security.key_sets import KeySource

# RFC 9864 renames this algorithm; issuers use the old name for years to come.
warnings.filterwarnings("ignore", message="EdDSA", category=SecurityWarning)

LEEWAY_S = 30
TOKEN_BYTES_MAX = 8 * 2**10


class Issuer(Struct, frozen=True, kw_only=True):
    """An issuer of tokens as the configuration trusts it."""

    name: str
    issuer: str
    audience: str
    # A file, or an https URL.
    jwks: str
    algorithms: tuple[str, ...]
    # The claim that holds a list of groups; empty: none.
    groups_claim: str = ""


class BadToken(Exception):  # noqa: N818 - as `Refused`
    """The token is not accepted. The message is for our own log."""


class JwtVerifier:
    """Verifies the tokens of all issuers."""

    def __init__(self, issuers: Mapping[str, tuple[Issuer, KeySource]], *, now: Callable[[], float]) -> None:
        """`issuers`: by the claim `iss`. `now`: seconds since the Unix epoch."""
        self._issuers = issuers
        self._now = now

    def verify(self, token: str) -> tuple[Identity, float]:
        """Return the identity that a token proves, and its expiry.

        Raises:
            BadToken
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise BadToken(f"it has more than {TOKEN_BYTES_MAX} bytes")
        try:
            known = self._issuers.get(_claimed_issuer(token))
            if known is None:
                raise BadToken("its issuer is not configured")
            return self._verified(token, *known)
        except JoseError as error:
            raise BadToken(str(error)) from None
        # The token is a stranger's: whatever in it is not as it should be ends here.
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadToken(f"it is malformed: {type(error).__name__}") from None

    def _verified(self, token: str, issuer: Issuer, source: KeySource) -> tuple[Identity, float]:
        def key_of(signed: Any) -> Key:
            kid = signed.headers().get("kid")
            if source.keys is None or not isinstance(kid, str):
                raise BadToken("it names no key, or the keys of its issuer are not known yet")
            return source.keys.get_by_kid(kid)

        try:
            claims = jwt.decode(token, key_of, algorithms=issuer.algorithms).claims
        except InvalidKeyIdError:
            source.want_refresh()
            raise
        jwt.JWTClaimsRegistry(
            now=int(self._now()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": issuer.issuer},
            aud={"essential": True, "value": issuer.audience},
            exp={"essential": True},
            sub={"essential": True},
        ).validate(claims)
        return _identity(claims, issuer), float(claims["exp"])


def _claimed_issuer(token: str) -> str:
    """Return which issuer a token claims. This only selects the keys that then have to match."""
    claims = json.loads(jws.extract_compact(token.encode()).payload)
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise BadToken("it has no issuer")
    return issuer


def _identity(claims: Mapping[str, Any], issuer: Issuer) -> Identity:
    subject = claims["sub"]
    if not (isinstance(subject, str) and subject and subject.isprintable()):
        raise BadToken("its subject is empty or not printable")
    groups = claims.get(issuer.groups_claim, ()) if issuer.groups_claim else ()
    if not isinstance(groups, list | tuple):
        raise BadToken(f"the claim {issuer.groups_claim} is not a list")
    principals = [f"jwt:{issuer.name}:sub:{subject}"]
    principals += [f"jwt:{issuer.name}:group:{group}" for group in groups if isinstance(group, str)]
    return Identity(tuple(principals), "jwt")
