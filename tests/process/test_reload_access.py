"""SIGHUP: who may do what is replaced as a whole, but not by what locks out all."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from structlog.testing import capture_logs

from coordinator.config.configuration import Source
from coordinator.config.settings import Settings
from coordinator.process.worker import reloaded
from coordinator.security.tokens import new_token, token_hash
from tcc.admin.v1 import admin_pb2 as apb, admin_pb2_grpc
from tests.support.identities import Tls, bearer
from tests.support.worker import Running, running, settings_for

SOON = datetime.now(UTC) + timedelta(hours=1)
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


def access(tls: Tls, *tokens: str, ends: datetime = SOON) -> dict[str, object]:
    """Return the tables that let the holders of these tokens read."""
    return {
        "listen": {"address": "127.0.0.1:0", "tls": tls.settings(certificates=False)},
        "admin": {"listen": "127.0.0.1:0", "tls": tls.settings(certificates=False)},
        "auth": {
            "tokens": {
                f"t{number}": {"sha256": token_hash(token), "expires_at": ends.isoformat()}
                for number, token in enumerate(tokens)
            }
        },
        "operators": {"readers": {"identities": [f"token:t{number}" for number in range(len(tokens))]}},
    }


async def answer(worker: Running, tls: Tls, token: str) -> str:
    """Return the status of a call with a token."""
    async with tls.channel(f"127.0.0.1:{worker.worker.admin_port}") as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).GetStats(
            apb.GetStatsRequest(), metadata=bearer(token), timeout=30
        )
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


async def test_tokens_change_without_a_restart(log_url: str, tmp_path: Path) -> None:
    tls, old, new = Tls(tmp_path), new_token("t0"), new_token("t0")
    before, after = settings_for({}, **access(tls, old)), settings_for({}, **access(tls, new))
    async with running(before, log_url) as worker:
        assert [await answer(worker, tls, token) for token in (old, new)] == ["OK", "UNAUTHENTICATED"]
        with capture_logs() as lines:
            worker.worker.reload(after, before)
        assert [await answer(worker, tls, token) for token in (old, new)] == ["UNAUTHENTICATED", "OK"]
    [line] = [line for line in lines if line["event"] == "configuration reloaded"]
    # Their tokens are others, and the tables of who has them are the same.
    assert (line["clients"], line["operators"]) == ([], [])


async def test_a_reload_logs_the_clients_and_operators_that_changed(log_url: str, tmp_path: Path) -> None:
    tables = access(Tls(tmp_path), new_token("t0"), new_token("t1"))
    before = settings_for({}, **tables)
    shop = {"identities": ["token:t1"], "gid_prefixes": ["shop-"], "calls": {}}
    rights = {"operators": {"readers": {"identities": ["token:t0"]}}, "clients": {"shop": shop}}
    after = settings_for({}, **tables | rights)
    async with running(before, log_url) as worker:
        with capture_logs() as lines:
            worker.worker.reload(after, before)
    [line] = [line for line in lines if line["event"] == "configuration reloaded"]
    assert (line["clients"], line["operators"]) == (["shop"], ["readers"])


async def test_a_reload_without_auth_opens_nothing(log_url: str, tmp_path: Path) -> None:
    tls, token = Tls(tmp_path), new_token("t0")
    before = settings_for({}, **access(tls, token))
    listeners = {name: table for name, table in access(tls).items() if name in ("listen", "admin")}
    without = settings_for({}, **listeners)
    async with running(before, log_url) as worker:
        worker.worker.reload(without, before)
        answers = [await answer(worker, tls, given) for given in (token, new_token("t0"))]
    assert answers == ["OK", "UNAUTHENTICATED"]


def written(directory: Path, ends: datetime, table: str = "[operators.readers]") -> Source:
    tls = ", ".join(f'{key} = "{file}"' for key, file in Tls(directory).settings().items())
    path = directory / "tcc.toml"
    path.write_text(
        f"[listen]\ntls = {{ {tls} }}\n[admin]\ntls = {{ {tls} }}\n"
        f'[auth.tokens.t0]\nsha256 = "{"a" * 64}"\nexpires_at = {ends.isoformat()}\n'
        f'{table}\nidentities = ["token:t0"]\n'
    )
    return Source(path=path)


def test_a_reload_that_locks_out_every_caller_is_refused(tmp_path: Path) -> None:
    assert isinstance(reloaded(written(tmp_path, SOON)), Settings)
    assert reloaded(written(tmp_path, LONG_AGO)) is None
    # No client and no operator is left.
    assert reloaded(written(tmp_path, SOON, "[participants.p]\ntarget = 'a:1'\n#")) is None
