"""Credentials of everything on a stage: one certificate for all processes, and a JWT for initiators."""

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

import tcc

# It is its own authority.
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=bench "
    "-addext subjectAltName=IP:127.0.0.1 -keyout tls.key -out tls.crt"
)


# A directory inside with the certificate alone: its callers show no token.
TLS_ALONE = "tls"


def make(directory: Path) -> None:
    """Write the files."""
    subprocess.run(shlex.split(_CERTIFICATE), cwd=directory, check=True, capture_output=True)
    key = ECKey.generate_key("P-256", {"kid": "bench"})
    (directory / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    claims = {"iss": "bench", "aud": "tcc", "sub": "initiator", "exp": int(time.time()) + 86_400}
    (directory / "token").write_text(jwt.encode({"alg": "ES256", "kid": "bench"}, claims, key))
    (directory / TLS_ALONE).mkdir()
    for name in ("tls.crt", "tls.key"):
        shutil.copy(directory / name, directory / TLS_ALONE)


def tls_settings(directory: Path) -> Mapping[str, str]:
    """Return the settings of a coordinator that demands a certificate, and lets it do everything."""
    return {f"{listener}.tls": _table(directory, "client_ca_file") for listener in ("listen", "admin")}


def settings(directory: Path) -> Mapping[str, str]:
    """Return the settings of a coordinator that demands a certificate and a token of initiators."""
    return {
        **tls_settings(directory),
        "auth.jwt.bench": f'{{ issuer = "bench", audience = "tcc", jwks = "{directory}/jwks.json" }}',
        # Generated gids begin with the time.
        "clients.bench.gid_prefixes": '["0"]',
        "clients.bench.identities": '["jwt:bench:sub:initiator"]',
        "clients.bench.calls": '{ "*" = ["*"] }',
    }


def policy(directory: Path) -> Mapping[str, str]:
    """Return the settings of participants that demand a certificate of the coordinator."""
    return {"tls": _table(directory, "ca_file")}


def _table(directory: Path, ca: str) -> str:
    files = {"certificate_file": "tls.crt", "key_file": "tls.key", ca: "tls.crt"}
    return "{" + ", ".join(f'{key} = "{directory / name}"' for key, name in files.items()) + "}"


def tls(directory: str) -> tcc.Tls | None:
    """Return the certificate and the authority; None without a directory."""
    certificate, key = f"{directory}/tls.crt", f"{directory}/tls.key"
    return tcc.Tls(certificate=certificate, key=key, ca=certificate) if directory else None


def token(directory: str) -> str | None:
    """Return the token of initiators; None: they show none."""
    path = Path(directory, "token")
    return path.read_text() if directory and path.exists() else None
