"""Credentials for tests: an authority, certificates with any names, and tokens of an issuer."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

ISSUER = "https://idp.bank.example"
AUDIENCE = "tcc"
SERVER_NAME = "tcc.test"

_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Pair:
    """A certificate with its private key, in PEM."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.key = key
        self.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self.own = _issued("authority", [], None, ca=True)

    def issue(
        self,
        *names: str,
        common_name: str = "caller",
        client: bool | None = True,
        valid_from_days: int = -1,
        valid_days: int = 2,
    ) -> Pair:
        """Issue a certificate. `names`: URIs, or DNS names. `client` False: for servers; None: for both."""
        usages = {True: ExtendedKeyUsageOID.CLIENT_AUTH, False: ExtendedKeyUsageOID.SERVER_AUTH, None: None}
        return _issued(
            common_name,
            [x509.UniformResourceIdentifier(n) if "://" in n else x509.DNSName(n) for n in names],
            self.own,
            usage=usages[client],
            valid_from_days=valid_from_days,
            valid_days=valid_days,
        )

    def channel(self, address: str, pair: Pair | None = None) -> grpc.aio.Channel:
        """Return a channel that trusts it, and shows a certificate if one is given."""
        shown = (pair.key_pem, pair.certificate_pem) if pair else (None, None)
        credentials = grpc.ssl_channel_credentials(self.own.certificate_pem, *shown)
        options = (("grpc.ssl_target_name_override", SERVER_NAME),)
        return grpc.aio.secure_channel(address, credentials, options)


def _issued(
    common_name: str,
    names: list[x509.GeneralName],
    by: Pair | None,
    *,
    ca: bool = False,
    usage: x509.ObjectIdentifier | None = None,
    valid_from_days: int = -1,
    valid_days: int = 2,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = by.key if by else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    begin = datetime.now(UTC) + timedelta(days=valid_from_days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        # Strict verification, which is Python's default from 3.13 on, requires these.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if ca:
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Pair(builder.sign(signer, hashes.SHA256()), key)


class Issuer:
    """An issuer of JSON Web Tokens with one key, whose key set is in a file."""

    def __init__(self, directory: Path, kid: str = "key-1") -> None:
        self.kid = kid
        self.key = ECKey.generate_key("P-256", {"kid": kid})
        self.jwks = directory / "jwks.json"
        self.jwks.write_text(json.dumps(self.key_set()))

    def key_set(self) -> Any:
        return KeySet([self.key]).as_dict(private=False)

    def token(self, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """Return a token. A claim of None is left out."""
        protected = {"alg": "ES256", "kid": self.kid} | (header or {})
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": int(time.time()) + 600} | claims
        wanted = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(protected, wanted, key or self.key, algorithms=[protected["alg"]])


class Tls:
    """The files of a coordinator that requires client certificates, and channels to it."""

    def __init__(self, directory: Path, name: str = SERVER_NAME) -> None:
        self.authority = Authority()
        server = self.authority.issue(name, client=False)
        self._files = {
            "certificate_file": directory / "tls.crt",
            "key_file": directory / "tls.key",
            "client_ca_file": directory / "ca.crt",
        }
        contents = (server.certificate_pem, server.key_pem, self.authority.own.certificate_pem)
        for path, content in zip(self._files.values(), contents, strict=True):
            path.write_bytes(content)

    @property
    def ca_file(self) -> str:
        return str(self._files["client_ca_file"])

    def settings(self, *, certificates: bool = True) -> dict[str, str]:
        """Return the table `tls` of a listener. `certificates`: clients need one."""
        wanted = {name: str(path) for name, path in self._files.items()}
        return wanted if certificates else {k: v for k, v in wanted.items() if k != "client_ca_file"}

    def channel(self, address: str, pair: Pair | None = None) -> grpc.aio.Channel:
        """Return a channel that shows the certificate, if one is given."""
        return self.authority.channel(address, pair)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)
