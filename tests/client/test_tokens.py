"""Both clients with a token, at a coordinator that authenticates its callers."""

import asyncio
from pathlib import Path

import pytest

import tcc
from coordinator.security.tokens import new_token, token_hash
from tcc.errors import PermissionDenied
from tests.support.identities import SERVER_NAME, Tls
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for


async def test_a_token_is_sent_with_each_call_and_may_change(log_url: str, tmp_path: Path) -> None:
    tls, token, stock = Tls(tmp_path), new_token("shop"), ScriptedParticipant()
    ca = tmp_path / "authority.pem"
    ca.write_bytes(tls.authority.own.certificate_pem)
    client_tls = tcc.Tls(ca=ca, server_name=SERVER_NAME)
    present = ["tcc_shop_wrong"]
    async with serving(stock) as target:
        settings = settings_for(
            {"stock": {"target": target}},
            listen={"address": "127.0.0.1:0", "tls": tls.settings(certificates=False)},
            admin={"listen": "127.0.0.1:0", "tls": tls.settings(certificates=False)},
            auth={"tokens": {"shop": {"sha256": token_hash(token), "expires_at": "2100-01-01T00:00:00Z"}}},
            clients={"shop": {"identities": ["token:shop"], "calls": {"stock": ["reserve"]}}},
        )
        branches = [tcc.BranchRequest("stock", "reserve")]
        async with running(settings, log_url) as worker:
            async with tcc.Client(worker.address, tls=client_tls, token=lambda: present[0]) as client:
                with pytest.raises(PermissionDenied, match="token is not accepted"):
                    await client.execute(branches, gid="shop-1")
                present[0] = token
                await client.execute(branches, gid="shop-1")
                with pytest.raises(PermissionDenied, match="prefix") as refusal:
                    await client.execute(branches, gid="bank-1")
                assert refusal.value.reason == "NOT_ALLOWED"

            def synchronously() -> str:
                with tcc.SyncClient(worker.address, tls=client_tls, token=token) as client:
                    return client.execute(branches, gid="shop-2").gid

            assert await asyncio.to_thread(synchronously) == "shop-2"
