"""Credentials as they come with a call: which are accepted, and as whom. Each attack is a case."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey

from coordinator.core.errors import NotAuthenticated
from coordinator.security import authentication
from coordinator.security.authentication import Authenticator, Policy
from coordinator.security.caller import Caller, Client, Identity, Operator, Role
from coordinator.security.certificates import is_tls
from coordinator.security.jwt import Issuer as TrustedIssuer
from coordinator.security.key_sets import REFRESH_WANTED_EVERY_S, KeySource
from coordinator.security.tokens import StaticToken, new_token, token_hash
from tests.support.identities import AUDIENCE, ISSUER, Issuer

TLS = {"transport_security_type": [b"ssl"]}
PLAIN = {"transport_security_type": [b"insecure"]}


def client(name: str) -> Client:
    return Client(
        name=name,
        gid_prefixes=(f"{name}-",),
        calls={},
        calls_per_s=1.0,
        expiry_max_s=1.0,
    )


SHOP, BANK = client("shop"), client("bank")
ONCALL = Operator(name="oncall", role=Role.OPERATE)
ADMINS = Operator(name="admins", role=Role.ADMIN)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Setup:
    """An authenticator with one issuer and one static token."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.issuer = Issuer(directory)
        self.token = new_token("printer")
        self.policy = Policy(
            certificate_names=("spiffe",),
            tokens={"printer": StaticToken(sha256=token_hash(self.token), expires_at=self.clock.now + 100)},
            issuers=(
                TrustedIssuer(
                    name="corp",
                    issuer=ISSUER,
                    audience=AUDIENCE,
                    jwks=str(self.issuer.jwks),
                    algorithms=("ES256",),
                    groups_claim="groups",
                ),
            ),
            clients={
                "jwt:corp:sub:shop": SHOP,
                "token:printer": BANK,
                "spiffe://bank.example/shop": SHOP,
            },
            operators={"jwt:corp:group:oncall": ONCALL, "jwt:corp:group:admins": ADMINS},
        )
        self.authenticator = Authenticator(self.policy, now=self.clock, monotonic=self.clock)

    def caller(self, *headers: str, tls: Any = TLS) -> Caller:
        metadata = [("authorization", header) for header in headers]
        return self.authenticator.authenticate(metadata, lambda: tls, uses_tls=is_tls(tls)).caller

    def refused(self, token: str, tls: Any = TLS) -> NotAuthenticated:
        with pytest.raises(NotAuthenticated) as refusal:
            self.caller(f"Bearer {token}", tls=tls)
        assert (refusal.value.code, refusal.value.reason) == ("UNAUTHENTICATED", "NOT_AUTHENTICATED")
        return refusal.value


@pytest.fixture
async def setup(tmp_path: Path) -> Setup:
    made = Setup(tmp_path)
    await made.authenticator.refresh()
    return made


def unsigned(claims: dict[str, object], header: dict[str, object]) -> str:
    parts = [json.dumps(part).encode() for part in (header, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), ""])


# --- what is accepted -------------------------------------------------------


async def test_a_token_of_the_issuer_names_its_subject(setup: Setup) -> None:
    caller = setup.caller(f"Bearer {setup.issuer.token()}")
    assert caller == Caller(principal="jwt:corp:sub:shop", method="jwt", client=SHOP)
    assert setup.caller(f"bearer {setup.issuer.token()}") == caller


async def test_a_token_for_several_audiences_is_accepted(setup: Setup) -> None:
    assert setup.caller(f"Bearer {setup.issuer.token(aud=['other', AUDIENCE])}").client is SHOP
    setup.refused(setup.issuer.token(aud=["other", "another"]))
    setup.refused(setup.issuer.token(aud=[]))


async def test_groups_give_the_most_powerful_role(setup: Setup) -> None:
    caller = setup.caller(f"Bearer {setup.issuer.token(sub='ana', groups=['oncall', 'admins', 'x'])}")
    assert (caller.principal, caller.client, caller.operator) == ("jwt:corp:sub:ana", None, ADMINS)


async def test_a_static_token_names_itself(setup: Setup) -> None:
    assert setup.caller(f"Bearer {setup.token}") == Caller(
        principal="token:printer", method="token", client=BANK
    )


async def test_a_certificate_names_its_holder(setup: Setup) -> None:
    certificate = TLS | {"peer_spiffe_id": [b"spiffe://bank.example/shop"]}
    assert setup.caller(tls=certificate).client is SHOP


async def test_an_identity_of_two_clients_is_neither(setup: Setup) -> None:
    caller = setup.policy.caller(Identity(("token:printer", "jwt:corp:sub:shop"), "token"))
    assert caller.client is None


async def test_a_known_identity_without_an_entry_has_no_rights(setup: Setup) -> None:
    certificate = TLS | {"peer_spiffe_id": [b"spiffe://bank.example/printer"]}
    assert setup.caller(tls=certificate) == Caller(
        principal="spiffe://bank.example/printer", method="certificate"
    )


# --- attacks ----------------------------------------------------------------


async def test_a_token_without_a_signature_is_refused(setup: Setup) -> None:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": setup.clock.now + 100}
    for algorithm in ("none", "None", "NONE"):
        setup.refused(unsigned(claims, {"alg": algorithm, "kid": setup.issuer.kid}))


async def test_the_public_key_as_a_shared_secret_is_refused(setup: Setup) -> None:
    pem = setup.issuer.key.as_bytes(encoding="PEM", private=False)
    header, claims = {"alg": "HS256", "kid": setup.issuer.kid}, {"iss": ISSUER, "aud": AUDIENCE}
    body = claims | {"sub": "shop", "exp": int(setup.clock.now) + 100}
    # The attacker signs by hand, for libraries refuse a public key as a secret.
    signed = unsigned(body, header).rstrip(".")
    signature = base64.urlsafe_b64encode(hmac.digest(pem, signed.encode(), hashlib.sha256)).rstrip(b"=")
    setup.refused(f"{signed}.{signature.decode()}")
    secret = OctKey.import_key("x" * 32, {"kid": setup.issuer.kid})
    setup.refused(setup.issuer.token({"alg": "HS256"}, secret))


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": None},
        {"exp": "tomorrow"},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": 7},
        {"groups": "admins"},
        {"exp": 1},
        {"nbf": 4_000_000_000},
    ],
    ids=str,
)
async def test_a_wrong_claim_is_refused(setup: Setup, claims: dict[str, object]) -> None:
    setup.refused(setup.issuer.token(**claims))


async def test_a_token_of_another_key_is_refused(setup: Setup) -> None:
    same_id = ECKey.generate_key("P-256", {"kid": setup.issuer.kid})
    setup.refused(setup.issuer.token(key=same_id))
    setup.refused(setup.issuer.token({"kid": "unknown"}))
    setup.refused(setup.issuer.token({"jwk": same_id.as_dict(private=False)}, same_id))


async def test_an_algorithm_that_is_not_configured_is_refused(setup: Setup) -> None:
    other = ECKey.generate_key("P-384", {"kid": setup.issuer.kid})
    setup.refused(setup.issuer.token({"alg": "ES384"}, other))


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "é", "x" * 9_000, "e30.e30.", "tcc_", "tcc_printer_", "tcc_x_y"]
)
async def test_rubbish_is_refused(setup: Setup, token: str) -> None:
    setup.refused(token)


async def test_a_token_longer_than_8_kib_is_refused_before_it_is_read(setup: Setup) -> None:
    assert "8192 bytes" in setup.refused(setup.issuer.token(more="x" * 8_192)).cause


async def test_a_token_over_plain_text_is_refused(setup: Setup) -> None:
    for token in (setup.token, setup.issuer.token()):
        assert "TLS only" in setup.refused(token, PLAIN).message
        setup.refused(token, {})


@pytest.mark.parametrize("headers", [["Basic c2hvcDp4"], ["Bearer a", "Bearer b"], ["x"], [""]])
async def test_a_bad_header_is_no_reason_to_look_at_the_certificate(
    setup: Setup, headers: Sequence[str]
) -> None:
    certificate = TLS | {"peer_spiffe_id": [b"spiffe://bank.example/shop"]}
    with pytest.raises(NotAuthenticated):
        setup.caller(*headers, tls=certificate)
    setup.refused("tcc_printer_wrong", certificate)


async def test_names_of_other_kinds_are_no_identities(setup: Setup) -> None:
    certificate = TLS | {
        "peer_uri": [b"spiffe://bank.example/shop"],
        "x509_common_name": [b"spiffe://bank.example/shop"],
        "peer_dns": [b"token:printer"],
    }
    with pytest.raises(NotAuthenticated):
        setup.caller(tls=certificate)


async def test_a_name_that_is_not_printable_is_no_identity(setup: Setup) -> None:
    with pytest.raises(NotAuthenticated):
        setup.caller(tls=TLS | {"peer_spiffe_id": [b"spiffe://bank.example/shop\n"]})


async def test_a_call_without_a_credential_is_refused(setup: Setup) -> None:
    with pytest.raises(NotAuthenticated):
        setup.caller()


# --- time -------------------------------------------------------------------


async def test_a_static_token_expires(setup: Setup) -> None:
    setup.caller(f"Bearer {setup.token}")
    setup.clock.now += 100
    setup.refused(setup.token)


async def test_a_verified_token_is_cached_but_not_beyond_its_expiry(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = setup.issuer.token(exp=int(setup.clock.now) + 50)
    verified = []
    verify = setup.authenticator._jwt.verify
    monkeypatch.setattr(
        setup.authenticator._jwt, "verify", lambda token: (verified.append(token), verify(token))[1]
    )
    for _ in range(3):
        setup.caller(f"Bearer {token}")
    assert verified == [token]
    setup.clock.now += 50 + 30 + 1  # the leeway, and the second on whose side libraries differ
    setup.refused(token)
    assert verified == [token, token]


async def test_the_cache_of_verified_tokens_is_bounded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "CACHED_MAX", 2)
    for subject in "abcde":
        setup.caller(f"Bearer {setup.issuer.token(sub=subject)}")
    assert len(setup.authenticator._cached) <= 2


# --- keys -------------------------------------------------------------------


async def test_a_failed_refresh_keeps_the_last_keys(setup: Setup) -> None:
    for content in ("", "[]", "{}", '{"keys": 3}', '{"keys": [{}]}', "\xff"):
        setup.issuer.jwks.write_bytes(content.encode("latin-1"))
        await setup.authenticator.refresh()
        setup.caller(f"Bearer {setup.issuer.token(sub=f'after {content!r}')}")
    setup.issuer.jwks.unlink()
    await setup.authenticator.refresh()
    setup.caller(f"Bearer {setup.issuer.token(sub='still')}")


async def test_a_new_key_is_accepted_after_a_refresh(setup: Setup, tmp_path: Path) -> None:
    rotated = Issuer(tmp_path, "key-2")
    setup.refused(rotated.token())
    await setup.authenticator.refresh()
    setup.caller(f"Bearer {rotated.token()}")


async def test_unknown_keys_ask_for_one_refresh_in_30_seconds(tmp_path: Path) -> None:
    clock = Clock()
    source = KeySource(str(tmp_path / "jwks.json"), monotonic=clock)
    wanted = []
    for _ in range(5):
        source.want_refresh()
        wanted.append(source._wanted.is_set())
        source._wanted.clear()
    clock.now += REFRESH_WANTED_EVERY_S
    source.want_refresh()
    wanted.append(source._wanted.is_set())
    assert wanted == [True, False, False, False, False, True]


async def test_a_secret_key_in_the_key_set_verifies_nothing(setup: Setup) -> None:
    """An issuer that publishes a shared secret by mistake does not open the door."""
    secret = OctKey.import_key("x" * 32, {"kid": "secret"})
    setup.issuer.jwks.write_text(json.dumps({"keys": [secret.as_dict(private=True)]}))
    await setup.authenticator.refresh()
    setup.refused(setup.issuer.token({"alg": "HS256", "kid": "secret"}, secret))
