"""Who may call a participant, over real connections with real certificates."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

import tcc
from tcc._internal.channel_options import BRANCH_CALLS_BYTES_MAX
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tests.barrier.test_barrier import AsyncSingle, make_call, make_participant
from tests.support.identities import Authority, bearer
from tests.support.participant_databases import Caller
from tests.support.tls_site import Site

TCCD = "spiffe://bank.example/tccd"
OTHER = "spiffe://bank.example/printer"
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
CONFIRM = common.OPERATION_CONFIRM


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def serving(database, **arguments) -> AsyncIterator[int]:
    async with make_participant(database).running("127.0.0.1:0", **arguments) as server:
        yield server.port


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_another_name_of_the_same_authority_may_call_no_method_but_health(sqlite, site, caplog):
    engine, ledger = sqlite
    async with serving(engine, tls=site.tls(), callers=[TCCD]) as port:
        async with site.channel(port, site.authority.issue(TCCD)) as channel:
            await Caller(channel).try_(make_call())
        async with site.channel(port, site.authority.issue(OTHER, common_name=TCCD)) as channel:
            other_caller = Caller(channel)
            with caplog.at_level(logging.WARNING, "tcc.participant"):
                error = await refusal(other_caller.confirm(make_call(CONFIRM)))
            for other in (
                other_caller.try_(make_call()),
                other_caller.cancel(make_call(common.OPERATION_CANCEL)),
                other_caller.execute(make_call(CONFIRM)),
                other_caller.stub.StreamBranches().read(),
                other_caller.stub.ListBranches(pb.ListBranchesRequest()),
                other_caller.stub.GetParticipantInfo(pb.GetParticipantInfoRequest()),
                _services(channel),
            ):
                assert (await refusal(other)).code() is DENIED
            health = health_pb2_grpc.HealthStub(channel)
            status = (await health.Check(health_pb2.HealthCheckRequest())).status
    assert (error.code(), OTHER in error.details(), TCCD in error.details()) == (DENIED, True, False)
    assert status == health_pb2.HealthCheckResponse.SERVING
    assert "/tcc.participant.v1.ParticipantService/ConfirmBranch" in caplog.text
    assert OTHER in caplog.text
    assert ledger.effects("g") == ["try"]


async def test_repeated_refusals_of_a_caller_are_one_line(sqlite, site, caplog):
    engine, _ = sqlite
    async with serving(engine, tls=site.tls(), callers=[TCCD]) as port:
        for _ in range(2):
            async with site.channel(port, site.authority.issue(OTHER)) as channel:
                for _ in range(3):
                    await refusal(Caller(channel).confirm(make_call(CONFIRM)))
                    await refusal(Caller(channel).try_(make_call()))
    refused = [line.getMessage() for line in caplog.records if line.getMessage().startswith("refused: ")]
    assert [line.split()[1].rpartition("/")[2] for line in refused] == ["ConfirmBranch", "TryBranch"]


async def test_only_callers_and_the_machine_itself_see_the_services(sqlite):
    engine, _ = sqlite
    async with (
        make_participant(engine).running("0.0.0.0:0", insecure=True) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        code = (await refusal(_services(channel))).code()
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def _services(channel: grpc.aio.Channel) -> None:
    """Open the stream of reflection, which is refused before a request is sent.

    A request sent as the refusal arrives would end the call with INTERNAL instead.
    """
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=10)
    await call.read()


async def test_a_name_with_a_line_break_forges_no_line_of_the_log(sqlite, site, caplog):
    engine, _ = sqlite
    forger = site.authority.issue("https://bank.example/x\nWARNING tcc: all is well")
    async with (
        serving(engine, tls=site.tls(), callers=[TCCD]) as port,
        site.channel(port, forger) as channel,
    ):
        error = await refusal(Caller(channel).try_(make_call()))
    assert error.code() is UNKNOWN
    assert "no certificate with a name" in error.details()
    assert "all is well" not in caplog.text


@pytest.mark.parametrize("name", [TCCD, "https://bank.example/tccd", "tccd.bank.example"])
async def test_a_coordinator_is_known_by_a_name_of_its_certificate(sqlite, site, name):
    engine, ledger = sqlite
    known = name if name == TCCD else f"uri:{name}" if "://" in name else f"dns:{name}"
    async with (
        serving(engine, tls=site.tls(), callers=["dns:other.example", known]) as port,
        site.channel(port, site.authority.issue(name)) as channel,
    ):
        await Caller(channel).execute(make_call())
    assert ledger.effects("g") == ["try"]


async def test_certificates_that_do_not_count_are_refused(sqlite, site):
    engine, ledger = sqlite
    other = Authority()
    async with serving(engine, tls=site.tls(), callers=[TCCD]) as port:
        for pair in (
            None,
            other.issue(TCCD),
            site.authority.issue(TCCD, valid_from_days=-3, valid_days=2),
            site.authority.issue(TCCD, client=False),
        ):
            async with site.channel(port, pair) as channel:
                error = await refusal(Caller(channel).try_(make_call(action="act")))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert ledger.effects("g") == []


async def test_a_token_is_accepted_instead_of_a_certificate(sqlite, site):
    engine, ledger = sqlite
    known = f"sha256:{sha256(b'tcc_tccd_secret').hexdigest()}"
    async with (
        serving(engine, tls=site.tls(ca=False), callers=[known]) as port,
        site.channel(port) as channel,
    ):
        stub, request = Caller(channel).stub, pb.TryBranchRequest(call=make_call())
        for metadata in (None, bearer("tcc_tccd_wrong"), bearer(known), bearer("tcc_tccd_secret") * 2):
            assert (await refusal(stub.TryBranch(request, metadata=metadata))).code() is UNKNOWN
        assert ledger.effects("g") == []
        await stub.TryBranch(request, metadata=bearer("tcc_tccd_secret"))
    assert ledger.effects("g") == ["try"]


async def test_an_address_beyond_loopback_needs_tls_and_callers(sqlite, site, caplog):
    participant = make_participant(sqlite[0])
    await participant.create_schema()
    for arguments in ({}, {"tls": site.tls()}, {"callers": [f"sha256:{'0' * 64}"]}):
        with pytest.raises(ValueError, match=r"0.0.0.0:0 is not on loopback.* tls=tcc.Tls\(.* callers=\["):
            await participant.start("0.0.0.0:0", **arguments)
    with caplog.at_level(logging.WARNING, "tcc.participant"):
        await participant.start("0.0.0.0:0", insecure=True)
    await participant.stop()
    assert "INSECURE: 0.0.0.0:0" in caplog.text
    await participant.start("0.0.0.0:0", tls=site.tls(), callers=[TCCD])
    await participant.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"callers": [TCCD]}, "give tls="),
        ({"callers": TCCD}, "callers is a list"),
        ({"callers": ["tccd"]}, "'tccd' is no caller"),
        ({"callers": ["sha256:0"]}, "is no caller"),
        ({"callers": ["cn:tccd"]}, "is no caller"),
        ({"tls": tcc.Tls()}, "a server needs a certificate"),
    ],
)
async def test_callers_that_cannot_be_checked_are_refused_at_the_start(sqlite, arguments, said):
    participant = make_participant(sqlite[0])
    await participant.create_schema()
    with pytest.raises((TypeError, ValueError), match=said):
        await participant.start("127.0.0.1:0", **arguments)


async def test_calls_beyond_the_limit_are_refused_unread(sqlite):
    running, release = asyncio.Event(), asyncio.Event()

    class Slow(AsyncSingle):
        async def try_(self, branch, request, db):
            running.set()
            await release.wait()
            await super().try_(branch, request, db)

    participant = tcc.Participant("test", database=sqlite[0], rpcs_max=1)
    participant.action("act")(Slow)
    async with (
        participant.running() as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        first = asyncio.create_task(Caller(channel).try_(make_call(action="act")))
        await running.wait()
        error = await refusal(Caller(channel).try_(make_call(gid="other", action="act")))
        release.set()
        await first
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_beyond_the_limit_is_refused(sqlite):
    async with (
        serving(sqlite[0]) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        error = await refusal(Caller(channel).try_(make_call(payload=bytes(BRANCH_CALLS_BYTES_MAX))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_empty_list_of_callers_is_refused(sqlite):
    with pytest.raises(ValueError, match="callers is empty"):
        await tcc.Participant("test", database=sqlite[0]).start("127.0.0.1:0", callers=[])
