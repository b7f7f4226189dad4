"""Authenticate a call: by its bearer token if it has one, otherwise by its client certificate."""

import asyncio
import math
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b, sha256

from msgspec import Struct

from coordinator.core.errors import NotAuthenticated
from coordinator.security.caller import Caller, Client, Identity, Operator
from coordinator.security.certificates import AuthContext, certificate_identity
from coordinator.security.jwt import BadToken, Issuer, JwtVerifier
from coordinator.security.key_sets import KeySource
from coordinator.security.tokens import PREFIX, StaticToken, verify_token

CACHED_MAX_S = 60.0
CACHED_MAX = 10_000
_BEARER = "bearer "
# Of BLAKE2b, which is Python's own code. SHA-256 is OpenSSL's, which looks up and allocates much for each:
# as fast in a loop, but 8 us slower in a busy server, whose calls find the CPU's cache full of other things.
_HASH_BYTES = 32


class Policy(Struct, frozen=True, kw_only=True):
    """The identities, clients and operators of a configuration. A reload replaces it as a whole."""

    certificate_names: tuple[str, ...] = ()
    tokens: Mapping[str, StaticToken] = {}
    issuers: tuple[Issuer, ...] = ()
    # By identity.
    clients: Mapping[str, Client] = {}
    operators: Mapping[str, Operator] = {}

    def admits_any_caller(self, now: float) -> bool:
        """Return whether there is an identity that a caller can still prove."""
        identities = [*self.clients, *self.operators]
        alive = {f"token:{name}" for name, token in self.tokens.items() if now < token.expires_at}
        return any(not one.startswith("token:") or one in alive for one in identities)

    def caller(self, identity: Identity) -> Caller:
        """Return the caller that an identity is.

        It has the most powerful of its operators' roles. If it could be several clients, it is none:
        which of them a transaction belongs to would be a guess.
        """
        principals = identity.principals
        clients = {self.clients[one].name: self.clients[one] for one in principals if one in self.clients}
        return Caller(
            principal=identity.principal,
            method=identity.method,
            client=next(iter(clients.values())) if len(clients) == 1 else None,
            operator=self.operator(principals),
            operator_principals=tuple(one for one in principals if one in self.operators),
        )

    def operator(self, principals: Sequence[str]) -> Operator | None:
        """Return the most powerful of the operators that these are; None: they are none."""
        operators = [self.operators[one] for one in principals if one in self.operators]
        return max(operators, key=lambda operator: operator.role, default=None)


def credential_id(
    caller: Caller, metadata: Sequence[tuple[str, str | bytes]], auth_context: Callable[[], AuthContext]
) -> str:
    """Return which credential a call was authenticated with: the id of a static token, or else a SHA-256."""
    if caller.method == "token":
        return caller.principal.removeprefix("token:")
    if caller.method == "certificate":
        (pem,) = auth_context()["x509_pem_cert"]
        return sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    (header,) = (value for key, value in metadata if key == "authorization")
    return sha256(str(header)[len(_BEARER) :].strip().encode()).hexdigest()


class Proof(Struct, frozen=True):
    """Who has sent a call, and until when the same credential need not be verified again."""

    caller: Caller
    # Seconds since the Unix epoch.
    good_until: float


class Authenticator:
    """Authenticates calls by one policy."""

    def __init__(
        self,
        policy: Policy,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        sources: Iterable[KeySource] = (),
    ) -> None:
        """`now`: seconds since the Unix epoch. `sources`: with keys that are known already."""
        self.policy = policy
        known = {source.location: source for source in sources}
        self.sources = {
            issuer.jwks: known.get(issuer.jwks) or KeySource(issuer.jwks, monotonic=monotonic)
            for issuer in policy.issuers
        }
        self.now = now
        self._jwt = JwtVerifier(
            {issuer.issuer: (issuer, self.sources[issuer.jwks]) for issuer in policy.issuers}, now=now
        )
        # By the hash of a verified header.
        self._cached: dict[bytes, Proof] = {}
        # By the names in certificates, which gRPC verifies with each connection.
        self._by_names: dict[tuple[str, ...], Proof] = {}

    async def run(self) -> None:
        """Refresh the issuers' keys until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for source in self.sources.values():
                tasks.create_task(source.run())

    async def refresh(self) -> None:
        """Read the keys of all issuers once."""
        await asyncio.gather(*(source.refresh() for source in self.sources.values()))

    def authenticate(
        self,
        metadata: Sequence[tuple[str, str | bytes]],
        auth_context: Callable[[], AuthContext],
        *,
        uses_tls: bool,
    ) -> Proof:
        """Return who calls.

        `auth_context`: returns what gRPC has verified of the connection, which it copies each time: only a
        certificate needs it. `uses_tls`: whether the connection is encrypted.

        Raises:
            NotAuthenticated
        """
        given = [value for key, value in metadata if key == "authorization"]
        if given:
            return self._by_token(given, uses_tls=uses_tls)
        identity = certificate_identity(auth_context(), self.policy.certificate_names)
        if identity is None:
            raise NotAuthenticated("the call has neither a token nor a certificate with a configured name")
        proof = self._by_names.get(identity.principals)
        if proof is None:
            if len(self._by_names) >= CACHED_MAX:
                self._by_names.clear()
            proof = self._by_names[identity.principals] = Proof(self.policy.caller(identity), math.inf)
        return proof

    def _by_token(self, given: Sequence[str | bytes], *, uses_tls: bool) -> Proof:
        if not uses_tls:
            raise NotAuthenticated("a token is accepted over TLS only")
        header = given[0]
        if len(given) > 1 or not isinstance(header, str) or header[: len(_BEARER)].lower() != _BEARER:
            raise NotAuthenticated("the header authorization must hold one bearer token")
        now = self.now()
        key = blake2b(header.encode(), digest_size=_HASH_BYTES).digest()
        proof = self._cached.get(key)
        if proof is not None and now < proof.good_until:
            return proof
        caller, expires_at = self._verified(header[len(_BEARER) :].strip(), now)
        proof = Proof(caller, min(expires_at, now + CACHED_MAX_S))
        if now < proof.good_until:
            if len(self._cached) >= CACHED_MAX:
                self._cached.clear()
            self._cached[key] = proof
        return proof

    def _verified(self, token: str, now: float) -> tuple[Caller, float]:
        if token.startswith(PREFIX):
            proved = verify_token(token, self.policy.tokens, now)
            if proved is None:
                raise NotAuthenticated("the token is not accepted")
            identity, expires_at = proved
            return self.policy.caller(identity), expires_at
        try:
            identity, expires_at = self._jwt.verify(token)
        except BadToken as error:
            raise NotAuthenticated("the token is not accepted", cause=str(error)) from None
        return self.policy.caller(identity), expires_at
