"""The synchronous client in processes that fork, in threads, and at the end of a process.

The programs run in processes of their own, because gRPC runs in this one.
"""

import asyncio
import textwrap

import pytest

from tests.client.scripted_service import ScriptedService, confirmed, serving
from tests.client.test_client_interactive import BEGUN
from tests.support.processes import Ended, run_python

PREAMBLE = """
import os, sys, threading, warnings
import tcc

# From 3.12 on Python warns of every fork beside a thread.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

TARGET = sys.argv[1]
BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]

def in_child(work):
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        work()
        sys.exit(0)
"""


@pytest.fixture
def service():
    return ScriptedService()


async def run(service: ScriptedService, program: str, *options: str) -> Ended:
    """Run a program against the service."""
    async with serving(service) as target:
        return await run_python(*options, "-c", PREAMBLE + textwrap.dedent(program), target)


async def succeeds(service: ScriptedService, program: str) -> None:
    """Run a program, which must succeed. Only gRPC may write a line."""
    ended = await run(service, program)
    assert (ended.status, ended.error) == (0, "")


# --- forks --------------------------------------------------------------------


async def test_a_used_client_works_in_the_child_in_its_child_and_in_the_parent(service):
    await succeeds(
        service,
        """
        client = tcc.SyncClient(TARGET)
        client.execute(BRANCHES, gid="parent")

        def grandchild():
            client.execute(BRANCHES, gid="grandchild")

        def child():
            client.execute(BRANCHES, gid="child")
            with tcc.SyncClient(TARGET) as new:
                new.execute(BRANCHES, gid="child-new")
            in_child(grandchild)

        in_child(child)
        client.execute(BRANCHES, gid="parent-again")
        client.close()
        in_child(lambda: tcc.SyncClient(TARGET).execute(BRANCHES, gid="after-close"))
        """,
    )
    assert service.gids == ["parent", "child", "child-new", "grandchild", "parent-again", "after-close"]


async def test_a_client_that_was_not_used_yet_works_in_the_child(service):
    await succeeds(
        service,
        """
        client = tcc.SyncClient(TARGET)
        in_child(lambda: client.execute(BRANCHES, gid="child"))
        """,
    )
    assert service.gids == ["child"]


async def test_a_call_in_flight_during_a_fork_is_repeated_in_the_parent_alone(service):
    held, child = asyncio.Event(), asyncio.Event()

    async def execute(request):
        match request.gid:
            case "held":
                held.set()
                await child.wait()
            case "parent":
                await held.wait()
            case "child":
                child.set()
        return confirmed(request.gid)

    service.execute = execute
    await succeeds(
        service,
        """
        client = tcc.SyncClient(TARGET, timeout_s=60)
        outcomes = []
        waiting = threading.Thread(target=lambda: outcomes.append(client.execute(BRANCHES, gid="held")))
        waiting.start()
        client.execute(BRANCHES, gid="parent")  # answered when "held" has arrived
        in_child(lambda: client.execute(BRANCHES, gid="child"))
        waiting.join()
        assert [outcome.gid for outcome in outcomes] == ["held"]
        """,
    )
    assert sorted(service.gids) == ["child", "held", "held", "parent"]


@pytest.mark.slow
async def test_forks_beside_busy_threads(service):
    await succeeds(
        service,
        """
        client = tcc.SyncClient(TARGET)
        ended = False
        failures = []

        def work():
            while not ended:
                try:
                    client.execute(BRANCHES)
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            in_child(lambda: client.execute(BRANCHES, gid="child"))
        ended = True
        for thread in threads:
            thread.join()
        assert not failures
        """,
    )
    assert service.gids.count("child") == 20


@pytest.mark.slow
async def test_a_pool_of_multiprocessing(service):
    await succeeds(
        service,
        """
        import multiprocessing

        client = tcc.SyncClient(TARGET)
        client.execute(BRANCHES, gid="parent")

        def work(number):
            return client.execute(BRANCHES, gid=str(number)).gid

        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(12)) == [str(number) for number in range(12)]
        """,
    )
    assert len(service.gids) == 13


@pytest.mark.parametrize(
    "first_call",
    [
        "tcc.SyncClient(TARGET).execute(BRANCHES)",
        "asyncio.new_event_loop().run_until_complete(tcc.Client(TARGET).execute(BRANCHES))",
    ],
)
async def test_a_fork_beside_an_asynchronous_client_fails_at_its_first_call(service, first_call):
    ended = await run(
        service,
        f"""
        import asyncio

        loop = asyncio.new_event_loop()

        async def main():
            global client
            client = tcc.Client(TARGET)
            await client.execute(BRANCHES, gid="parent")

        loop.run_until_complete(main())
        pid = os.fork()
        if not pid:
            try:
                {first_call}
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        loop.run_until_complete(client.execute(BRANCHES, gid="parent-again"))
        loop.run_until_complete(client.close())
        """,
    )
    assert ended.status == 0, ended.error
    assert "forked while its parent had an open grpc.aio channel" in ended.out
    assert service.gids == ["parent", "parent-again"]


# --- the end of the process -----------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "client.execute(BRANCHES)",
        "client.transaction(gid='17').begin()",
        "client.execute(BRANCHES); del client",
        # A daemon thread that still waits.
        """
        def wait():
            client.execute(BRANCHES, gid="held", timeout_s=600)
        threading.Thread(target=wait, daemon=True).start()
        client.execute(BRANCHES, gid="after-held")
        """,
        "client.execute(BRANCHES); in_child(lambda: client.execute(BRANCHES))",
    ],
)
async def test_a_process_with_an_unclosed_client_ends_silently(service, program):
    held = asyncio.Event()

    async def execute(request):
        if request.gid == "held":
            held.set()
            await asyncio.Event().wait()
        if request.gid == "after-held":
            await held.wait()
        return confirmed(request.gid)

    service.execute = execute
    service.answers = [BEGUN]
    await succeeds(service, "client = tcc.SyncClient(TARGET)\n" + textwrap.dedent(program))


async def test_an_unclosed_client_gives_a_resource_warning(service):
    ended = await run(
        service,
        """
        client = tcc.SyncClient(TARGET)
        client.execute(BRANCHES)
        del client
        print("goes on")
        """,
        "-Walways::ResourceWarning",
    )
    assert ended.out == "goes on\n"
    assert "ResourceWarning: unclosed SyncClient" in ended.error
    assert ended.status == 0


async def test_a_closed_client_gives_no_warning(service):
    ended = await run(
        service,
        """
        with tcc.SyncClient(TARGET) as client:
            client.execute(BRANCHES)
        tcc.SyncClient(TARGET)  # makes no call
        """,
        "-Walways::ResourceWarning",
    )
    assert (ended.status, ended.error) == (0, "")


# --- environments that cannot work ------------------------------------------------


async def test_the_first_call_in_a_monkey_patched_process_raises_the_reason(service):
    ended = await run(
        service,
        """
        import _thread
        start = _thread.start_new_thread
        _thread.start_new_thread = lambda *arguments: start(*arguments)
        client = tcc.SyncClient(TARGET)
        try:
            client.execute(BRANCHES)
        except RuntimeError as error:
            print(error)
        client.close()
        """,
    )
    assert ended.out.startswith("the standard library of this process is monkey-patched")
    assert (ended.status, ended.error) == (0, "")
    assert service.gids == []
