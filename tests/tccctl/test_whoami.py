"""`tccctl whoami` and tokens, with a coordinator that authenticates its callers."""

from pathlib import Path

import pytest

from coordinator.security.tokens import new_token, token_hash
from tests.support.identities import Tls
from tests.support.worker import running, settings_for
from tests.tccctl.test_real_coordinator import tccctl, tccctl_at


@pytest.mark.slow
async def test_a_token_from_a_file_is_the_identity(log_url: str, tmp_path: Path) -> None:
    tls, token = Tls(tmp_path, "localhost"), new_token("ana")
    (tmp_path / "token").write_text(f"{token}\n")
    settings = settings_for(
        {},
        listen={"address": "127.0.0.1:0", "tls": tls.settings(certificates=False)},
        admin={"listen": "127.0.0.1:0", "tls": tls.settings(certificates=False)},
        auth={"tokens": {"ana": {"sha256": token_hash(token), "expires_at": "2100-01-01T00:00:00Z"}}},
        operators={"oncall": {"identities": ["token:ana"], "role": "operate"}},
    )
    async with running(settings, log_url) as worker:
        address = f"localhost:{worker.worker.admin_port}"
        secure = ("--ca-file", tls.ca_file)
        with_token = (*secure, "--token-file", str(tmp_path / "token"))
        code, out, _ = await tccctl_at(address, "whoami", *with_token)
        assert (code, [line.split(None, 1) for line in out.splitlines()]) == (
            0,
            [
                ["identity", "token:ana"],
                ["proved", "by  token"],
                ["operator", "oncall"],
                ["role", "operate"],
                ["tenants", "all"],
                ["payloads", "hidden"],
            ],
        )
        # A command needs no name: the operator is the caller.
        pause = ("participant", "pause", "stock", "--reason", "r", *with_token)
        code, _, _ = await tccctl_at(address, *pause, USER="")
        assert code == 3  # let through; there is no such participant
        code, _, error = await tccctl_at(address, "whoami", *secure)
        assert (code, "NOT_AUTHENTICATED" in error) == (1, True)
        code, _, error = await tccctl_at(address, "whoami", "--token-file", str(tmp_path / "token"))
        assert (code, "a token requires TLS" in error) == (2, True)


async def test_without_auth_each_caller_may_do_everything(log_url: str) -> None:
    async with running(settings_for({}), log_url) as worker:
        code, out, _ = await tccctl(worker, "whoami")
    assert (code, out) == (0, "this coordinator authenticates no caller: each may do everything\n")
