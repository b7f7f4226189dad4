"""The certificates of a client, a coordinator and a participant are replaced while transactions run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from coordinator.participant_client import client as participant_client
from tcc.client import connection
from tests.support.identities import Authority
from tests.support.tls_site import Site
from tests.support.worker import Running, running, settings_for

DOMAIN = "spiffe://bank.example"
ROTATIONS = 4
LOOPS = 8


class Counting(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Counts the calls of a participant by the name in the coordinator's certificate."""

    def __init__(self) -> None:
        self.seen: dict[str, asyncio.Event] = {f"{DOMAIN}/tccd/{n}": asyncio.Event() for n in rotations()}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)

        async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
            [name] = (name.decode() for name in context.auth_context()["peer_spiffe_id"])
            self.seen[name].set()
            async for response in handler.stream_stream(requests, context):
                yield response

        return handler._replace(stream_stream=answer) if handler.stream_stream else handler


class Reserve:
    """Counts its Trys and Confirms."""

    def __init__(self) -> None:
        self.tried = self.confirmed = 0

    async def try_(self, branch: tcc.Branch, request: Any, db: Any) -> None:
        self.tried += 1

    async def confirm(self, branch: tcc.Branch, request: Any, db: Any) -> None:
        self.confirmed += 1

    async def cancel(self, branch: tcc.Branch, request: Any, db: Any) -> None:
        raise AssertionError("nothing is cancelled")


def rotations() -> range:
    """Return the numbers of the certificates; the first is that of the start."""
    return range(ROTATIONS + 1)


def table(site: Site, ca: str) -> dict[str, str]:
    files = {"certificate_file": "tls.crt", "key_file": "tls.key", ca: "ca.crt"}
    return {key: str(site.directory / name) for key, name in files.items()}


@asynccontextmanager
async def system(
    log_url: str, sites: dict[str, Site], stock: tcc.Participant, callers: Counting
) -> AsyncIterator[Running]:
    names = [f"{DOMAIN}/tccd/{n}" for n in rotations()]
    async with stock.running(
        "127.0.0.1:0", tls=sites["stock"].tls(), callers=names, interceptors=[callers]
    ) as server:
        target = {"target": f"127.0.0.1:{server.port}", "tls": table(sites["tccd"], "ca_file")}
        target["tls"] |= {"server_name": "tcc.test"}  # type: ignore[operator] # it is the table
        tls = table(sites["tccd"], "client_ca_file")
        settings = settings_for(
            {"stock": target},
            listen={"address": "127.0.0.1:0", "tls": tls},
            admin={"listen": "127.0.0.1:0", "tls": tls},
            auth={},
            clients={
                "shop": {
                    "identities": [f"{DOMAIN}/shop/{n}" for n in rotations()],
                    "calls": {"stock": ["reserve"]},
                }
            },
        )
        async with running(settings, log_url) as coordinator:
            yield coordinator


@pytest.mark.slow
async def test_all_certificates_rotate_under_load_and_no_call_fails(
    log_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connection, participant_client):
        monkeypatch.setattr(module, "_FILES_CHECKED_EVERY_S", 0.0)
    authority = Authority()

    def pair(service: str, number: int) -> Any:
        return authority.issue(f"{DOMAIN}/{service}/{number}", "tcc.test", client=None)

    sites = {}
    for service in ("shop", "tccd", "stock"):
        (tmp_path / service).mkdir()
        sites[service] = Site(tmp_path / service, authority, pair(service, 0))
    stock = tcc.Participant("stock", database=create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/stock.db"))
    stock.action("reserve")(reserve := Reserve())
    callers = Counting()
    async with (
        system(log_url, sites, stock, callers) as coordinator,
        tcc.Client(coordinator.address, tls=sites["shop"].tls(), timeout_s=60) as client,
    ):
        access = coordinator.worker._access
        assert access is not None
        stopping = asyncio.Event()

        async def buy(gid: str) -> None:
            branches = [tcc.BranchRequest("stock", "reserve", {})]
            outcome = await client.execute(branches, gid=gid, wait_for="completion")
            assert outcome.state.name == "CONFIRMED"

        async def buy_on(loop: int) -> int:
            bought = 0
            while not stopping.is_set():
                await buy(f"shop-{loop}-{bought}")
                bought += 1
            return bought

        load = [asyncio.create_task(buy_on(loop)) for loop in range(LOOPS)]
        await asyncio.wait_for(callers.seen[f"{DOMAIN}/tccd/0"].wait(), 60)
        for number in rotations()[1:]:
            for service, site in sites.items():
                site.write(pair(service, number))
            # This one begins with the new certificates.
            await buy(f"shop-after-{number}")
            await asyncio.wait_for(callers.seen[f"{DOMAIN}/tccd/{number}"].wait(), 60)
        stopping.set()
        bought = ROTATIONS + sum(await asyncio.gather(*load))
        clients = {name for names in access.authenticator._by_names for name in names}
    print(f"{ROTATIONS} rotations of 3 certificates, {bought} transactions, 0 failed")
    assert clients == {f"{DOMAIN}/shop/{n}" for n in rotations()}
    assert (reserve.tried, reserve.confirmed) == (bought, bought)
