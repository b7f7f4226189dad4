"""Two tenants: each order belongs to one of them, and each asks for branches in the other's transactions."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc

from coordinator.security.tokens import new_token, token_hash
from participants.audit import AuditedTransaction, read_transactions
from participants.inventory.requests import ReserveStock
from tcc import Tls
from tcc._internal.channel_options import client_options
from tcc._internal.tls import channel_credentials, channel_options
from tcc.client.client import Client
from tcc.context import TransactionContext
from tcc.errors import NotFound

TENANTS = ("red", "blue")
_SERVER_NAME = "coordinator"
# It is its own authority.
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=faults "
    f"-addext subjectAltName=DNS:{_SERVER_NAME} -keyout tls.key -out tls.crt"
)
_INTRUDER = "intruder"
_INTRUSION_TIMEOUT_S = 40.0


def tenant_of(gid: str) -> str:
    """Return the tenant of an order, whose name its gid begins with."""
    return gid.partition("-")[0]


def other_than(tenant: str) -> str:
    """Return the other tenant."""
    return TENANTS[1 - TENANTS.index(tenant)]


class Credentials:
    """The coordinators' certificate and the tenants' tokens, in files of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._certificate, self._key = directory / "tls.crt", directory / "tls.key"
        self.tls = Tls(ca=self._certificate, server_name=_SERVER_NAME)

    def make(self) -> None:
        """Write the files."""
        subprocess.run(shlex.split(_CERTIFICATE), cwd=self.directory, check=True, capture_output=True)
        for tenant in TENANTS:
            self._token_file(tenant).write_text(new_token(tenant))

    def settings(self) -> str:
        """Return the coordinators' tables for them, in TOML. JSON strings are valid TOML strings."""
        files = {"certificate_file": self._certificate, "key_file": self._key}
        shown = [f"{name} = {json.dumps(str(file))}" for name, file in files.items()]
        lines = ["[listen.tls]", *shown, "[admin.tls]", *shown]
        for tenant in TENANTS:
            lines += [
                f"[auth.tokens.{tenant}]",
                f'sha256 = "{token_hash(self.token(tenant))}"',
                "expires_at = 2100-01-01T00:00:00Z",
                f"[clients.{tenant}]",
                f'identities = ["token:{tenant}"]',
                'calls = { "*" = ["*"] }',
            ]
        return "\n".join(("", *lines, ""))

    def token(self, tenant: str) -> str:
        return self._token_file(tenant).read_text()

    def transactions(self, tenant: str, coordinator: str) -> Iterator[AuditedTransaction]:
        """Yield a tenant's transactions, newest first. Raises grpc.RpcError."""
        options = (*client_options(), *channel_options(self.tls))
        metadata = (("authorization", f"Bearer {self.token(tenant)}"),)
        with grpc.secure_channel(coordinator, channel_credentials(self.tls.content()), options) as channel:
            yield from read_transactions(channel, metadata)

    def _token_file(self, tenant: str) -> Path:
        return self.directory / f"token-{tenant}"


async def intrude(client: Client, gid: str, sku: str) -> bool:
    """Ask for a branch in a transaction of another tenant. Return whether it was let in."""
    joined = client.join(TransactionContext(gid=gid))
    try:
        await joined.try_(
            "inventory",
            "reserve_stock",
            ReserveStock(sku=sku, quantity=1),
            branch_id=_INTRUDER,
            timeout_s=_INTRUSION_TIMEOUT_S,
        )
    except NotFound:
        return False
    return True
