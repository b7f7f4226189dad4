"""[auth], [clients.NAME] and [operators.NAME]: what they become, and which mistakes are refused."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.config.commands import lines
from coordinator.config.configuration import ConfigurationError, load, read
from coordinator.core.model import BranchSpec
from coordinator.process.cli import app
from coordinator.security.caller import Client, Operator, Role
from coordinator.security.tokens import StaticToken, token_hash, verify_token
from tests.support.identities import Tls

AUTH = """
[auth]
certificate_names = ["spiffe"]
[auth.tokens.shop]
sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
expires_at = 2030-01-01T00:00:00Z
"""
SHOP = """
[clients.shop]
identities = ["token:shop", "spiffe://bank.example/shop"]
calls = { ledger = ["debit", "credit"], inventory = ["*"] }
"""
ONCALL = """
[operators.oncall]
identities = ["spiffe://bank.example/ana"]
role = "operate"
tenants = ["shop"]
"""


PARTICIPANTS = """
[participants.ledger]
target = "ledger:1"
[participants.inventory]
target = "inventory:1"
"""


def written(directory: Path, text: str, *, certificates: bool = True) -> Path:
    path = directory / "tcc.toml"
    files = Tls(directory).settings(certificates=certificates)
    tls = ", ".join(f'{key} = "{file}"' for key, file in files.items())
    listeners = f"[listen]\ntls = {{ {tls} }}\n[admin]\ntls = {{ {tls} }}\n"
    path.write_text(f"{text}\n{listeners}{PARTICIPANTS}")
    return path


def mistakes(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(written(directory, text))
    return [issue.key + ": " + issue.message for issue in caught.value.issues]


@pytest.mark.parametrize(
    ("table", "names", "identity"),
    [
        ("clients", "spiffe", "spiffe://bank.example/shop"),
        ("clients", "dns", "dns:shop"),
        ("operators", "common_name", "cn:ana"),
        ("operators", "email", "email:ana@bank.example"),
    ],
)
def test_an_identity_that_no_caller_can_prove_is_refused(
    tmp_path: Path, table: str, names: str, identity: str
) -> None:
    """Without `client_ca_file` a listener asks for no certificate."""
    text = f'[auth]\ncertificate_names = ["{names}"]\n[{table}.a]\nidentities = ["{identity}"]'
    load(written(tmp_path, text))
    listener = {"clients": "listen", "operators": "admin"}[table]
    message = f"requires client_ca_file.* {table}.a has the identity {identity}"
    with pytest.raises(ConfigurationError, match=rf"{listener}\.tls: {message}"):
        load(written(tmp_path, text, certificates=False))


def test_tokens_need_no_certificates_of_clients(tmp_path: Path) -> None:
    text = AUTH + '[clients.shop]\nidentities = ["token:shop"]'
    assert load(written(tmp_path, text, certificates=False)).policy() is not None


@pytest.mark.parametrize("table", ["listen", "admin"])
def test_auth_requires_tls_at_both_listeners(tmp_path: Path, table: str) -> None:
    path = written(tmp_path, AUTH + SHOP)
    lines = path.read_text().splitlines()
    del lines[lines.index(f"[{table}]") + 1]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigurationError, match=f"{table}.tls: .auth. requires TLS"):
        load(path)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[listen]\naddress = "0.0.0.0:1"', "listen.address: 0.0.0.0:1 is not on loopback"),
        ('[listen]\naddress = "[::]:1"', r"listen.address: \[::\]:1 is not on loopback"),
        ('[admin]\nlisten = "10.0.0.7:1"', "admin.listen: 10.0.0.7:1 is not on loopback"),
        ('[admin]\nlisten = "tcc.local:1"', "admin.listen: tcc.local:1 is not on loopback"),
    ],
)
def test_a_listener_beyond_loopback_requires_insecure(tmp_path: Path, text: str, mistake: str) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=mistake):
        load(path)
    path.write_text(f"insecure = true\n{text}")
    assert load(path).insecure


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.1:1", "localhost:1", "[::1]:1"])
def test_loopback_needs_nothing(tmp_path: Path, address: str) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(f'[listen]\naddress = "{address}"')
    assert load(path).listen.address == address


def test_the_tables_become_one_policy(tmp_path: Path) -> None:
    policy = load(written(tmp_path, AUTH + SHOP + ONCALL)).policy()
    assert policy is not None
    shop = Client(
        name="shop",
        gid_prefixes=("shop-",),
        calls={"ledger": frozenset({"debit", "credit"}), "inventory": frozenset({"*"})},
        calls_per_s=1e6,
        expiry_max_s=30 * 86_400.0,
    )
    assert policy.clients == {"token:shop": shop, "spiffe://bank.example/shop": shop}
    oncall = Operator(name="oncall", role=Role.OPERATE, tenants=frozenset({"shop"}))
    assert policy.operators == {"spiffe://bank.example/ana": oncall}
    end = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert policy.tokens == {"shop": StaticToken(sha256="a" * 64, expires_at=end)}
    debit, anything, close, elsewhere = (
        BranchSpec(branch_id="1", participant=participant, action=action, payload=b"", content_type="")
        for participant, action in (
            ("ledger", "debit"),
            ("inventory", "anything"),
            ("ledger", "close"),
            ("payment", "debit"),
        )
    )
    assert shop.denied([debit, anything]) is None
    assert shop.denied([debit, close, elsewhere]) is close
    assert shop.denied([elsewhere]) is elsewhere
    assert shop.owns_gid("shop-1")
    assert not shop.owns_gid("shop")


def test_without_auth_there_is_no_policy() -> None:
    assert load(None).policy() is None


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (SHOP, "clients: requires [auth], or every caller may do everything"),
        (
            AUTH,
            "auth: requires [clients.NAME] or [operators.NAME], or no caller may do anything",
        ),
        (
            AUTH + SHOP + '[clients.bank]\nidentities = ["token:shop"]',
            "clients.bank.identities: token:shop is already that of shop",
        ),
        (
            AUTH + '[clients.bank]\nidentities = ["token:other"]',
            "clients.bank.identities: [auth] has no method that proves token:other",
        ),
        (
            AUTH + '[clients.bank]\nidentities = ["dns:bank"]',
            "clients.bank.identities: [auth] has no method that proves dns:bank",
        ),
        (
            AUTH + '[clients.bank]\nidentities = ["jwt:corp:sub:bank"]',
            "clients.bank.identities: [auth] has no method that proves jwt:corp:sub:bank",
        ),
        (AUTH + "[clients.bank]", "clients.bank.identities: at least one is required"),
        (
            AUTH + SHOP + '[clients.eu]\nidentities = ["spiffe://eu"]\ngid_prefixes = ["shop-eu-"]',
            "clients.eu.gid_prefixes: shop-eu- overlaps with shop- of shop",
        ),
        (
            AUTH + '[clients.eu]\nidentities = ["spiffe://eu"]\ngid_prefixes = [""]',
            "clients.eu.gid_prefixes: a prefix must not be empty",
        ),
        (
            AUTH + SHOP.replace("ledger", "leger") + '[clients.eu]\nidentities = ["spiffe://eu"]',
            "clients.shop.calls: there is no [participants.NAME] for leger",
        ),
        (AUTH + ONCALL, "operators.oncall.tenants: there is no [clients.shop]"),
        (AUTH + '[operators.a]\nrole = "root"', "operators.a.role: must be 'read', 'operate' or 'admin'"),
        (AUTH + "[auth.tokens.T]", "auth.tokens.T.expires_at: is missing"),
        (
            '[auth.jwt.corp]\nissuer = "i"\naudience = "a"\njwks = "http://idp/jwks"',
            "auth.jwt.corp.jwks: must be an https:// URL or a file",
        ),
        (
            '[auth.jwt.corp]\nissuer = "i"\naudience = "a"\njwks = "https://idp"\nalgorithms = ["HS256"]',
            "auth.jwt.corp.algorithms.0: must be 'ES256', 'PS256' or 'EdDSA'",
        ),
        (
            '[auth.jwt.corp]\nissuer = "i"\naudience = "a"\njwks = "https://idp"\nalgorithms = ["none"]',
            "auth.jwt.corp.algorithms.0: must be 'ES256', 'PS256' or 'EdDSA'",
        ),
        (
            AUTH + '[clients.shop]\nidentity = "x"',
            "clients.shop.identity: unknown key; did you mean 'identities'?",
        ),
    ],
)
def test_a_mistake_is_refused(tmp_path: Path, text: str, mistake: str) -> None:
    assert mistake in mistakes(tmp_path, text)


def test_the_effective_values_are_valid_again(tmp_path: Path) -> None:
    shown = "\n".join(lines(read(written(tmp_path, AUTH + SHOP + ONCALL))))
    path = tmp_path / "again.toml"
    path.write_text(shown)
    assert load(path).policy() == load(written(tmp_path, AUTH + SHOP + ONCALL)).policy()


def test_a_created_token_is_accepted_with_the_printed_lines(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["token", "create", "shop", "--days", "1"])
    assert result.exit_code == 0
    token, _, table = result.output.partition("\n\n")
    config: dict[str, Any] = tomllib.loads(table)
    known = config["auth"]["tokens"]["shop"]
    assert known["sha256"] == token_hash(token)
    assert token not in table
    settings = load(written(tmp_path, f'{table}\n[clients.shop]\nidentities = ["token:shop"]'))
    policy = settings.policy()
    assert policy is not None
    proved = verify_token(token, policy.tokens, datetime.now(UTC).timestamp())
    assert proved is not None
    assert policy.caller(proved[0]).name == "shop"


def test_a_token_needs_a_plain_id() -> None:
    assert CliRunner().invoke(app, ["token", "create", "a_b"]).exit_code == 2
