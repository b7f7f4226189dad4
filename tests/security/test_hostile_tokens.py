"""Tokens of a stranger who knows the source: none is accepted, none is a bug, and none is logged."""

import base64
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from joserfc.jwk import ECKey, KeySet

from coordinator.core.errors import NotAuthenticated
from coordinator.security.authentication import Authenticator, Policy
from coordinator.security.caller import Client
from coordinator.security.jwt import Issuer
from coordinator.security.tokens import StaticToken
from tests.support.identities import AUDIENCE, ISSUER

KID = "key-1"
SHOP = Client(name="shop", gid_prefixes=("shop-",), calls={}, calls_per_s=1.0, expiry_max_s=1.0)

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([ISSUER, AUDIENCE, KID, "ES256", "none", "HS256", "shop", "dir", "A128KW"]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "x5u", "enc", "zip", "exp"]),
    _VALUES,
)
_CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "groups"]), _VALUES
) | st.just({"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": 4_000_000_000})
_SIGNED_BY_THE_ISSUER = {"alg": "ES256", "kid": KID}


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def written(content: object) -> bytes:
    return json.dumps(content).encode()


_PARTS = st.one_of(
    st.binary(max_size=40),
    _HEADERS.map(written),
    _CLAIMS.map(written),
    _HEADERS.map(lambda header: written(_SIGNED_BY_THE_ISSUER | header)),
    _VALUES.map(written),
    st.integers(1, 2_000).map(lambda depth: b"[" * depth),
    st.just(b"9" * 5_000),
).map(encoded)
_TOKENS = st.one_of(
    st.text(max_size=60),
    st.lists(_PARTS, min_size=1, max_size=6).map(".".join),
    st.tuples(_PARTS, _PARTS, st.binary(min_size=64, max_size=64).map(encoded)).map(".".join),
    st.text(max_size=60).map("tcc_shop_".__add__),
)


@pytest.fixture(scope="module")
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    """One with an issuer whose keys are known, and a static token."""
    key = ECKey.generate_key("P-256", {"kid": KID})
    issuer = Issuer(name="corp", issuer=ISSUER, audience=AUDIENCE, jwks="", algorithms=("ES256",))
    made = Authenticator(
        Policy(
            tokens={"shop": StaticToken(sha256="0" * 64, expires_at=4_000_000_000.0)},
            issuers=(issuer,),
            clients={"jwt:corp:sub:shop": SHOP, "token:shop": SHOP},
        ),
        now=time.time,
        monotonic=time.monotonic,
    )
    made.sources[""].keys = KeySet([key])
    return made


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(token=_TOKENS)
def test_no_token_that_was_not_issued_is_accepted(authenticator: Authenticator, token: str) -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        authenticator.authenticate([("authorization", f"Bearer {token}")], dict, uses_tls=True)
    told = f"{refusal.value.message} {refusal.value.cause}"
    assert len(token) < 12 or token.strip() not in told
    assert authenticator._cached == {}
