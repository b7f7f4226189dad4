"""Cells of one log on a Citus cluster of several workers: one is moved online, and a worker is killed.

It is run by hand: `deploy/citus/cluster.sh` starts such a cluster, and says how. With `-s` it prints figures.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, pairwise
from pathlib import Path
from time import monotonic

import grpc
import psutil
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from coordinator.log.cells import cell_of
from coordinator.log.migration import migrate_cells
from coordinator.log.schema import cell_schema
from coordinator.log.store import LogPool, PostgresLog
from coordinator.process.log_cells import cell_places
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import begun, confirming, insert, parked, sql
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, rejected
from tests.support.worker import Running, branch, running, settings_for

pytestmark = pytest.mark.slow

CELLS = 8
CLUSTER = Path(__file__).parents[2] / "deploy" / "citus" / "cluster.sh"
# In each cell at once.
IN_FLIGHT = 4
# One transaction in so many is rejected by its participant.
REJECTED_ONE_IN = 5
# Enough for each cell to go on for a while.
MORE = 40
# Until a killed worker is noticed.
ANOTHER_EVERY_S = 0.2
# Rows of transactions that ended long ago, in the cell that is moved.
OLD_ROWS = 50_000

_WORKERS = "SELECT nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY nodeport"
_PLACES = """
    SELECT relnamespace::regnamespace::text, nodeport
    FROM citus_shards JOIN pg_class ON pg_class.oid = table_name WHERE relname = 'transactions'
"""
_MOVE = "SELECT citus_schema_move(%s, '127.0.0.1', %s, 'force_logical')"


@pytest.fixture
def workers(database_url: str) -> list[int]:
    """The ports of the cluster's workers."""
    with psycopg.connect(database_url) as db:
        if db.execute("SELECT to_regclass('pg_dist_node')").fetchone() == (None,):
            pytest.skip("the server is not one of Citus")
        ports = [port for (port,) in db.execute(_WORKERS)]
    if len(ports) < 2:
        pytest.skip("the cluster has no two workers")
    return ports


async def places(url: str) -> dict[int, int]:
    """Return the port of the worker that has each cell."""
    at = dict(await sql(url, _PLACES))
    return {cell: at[cell_schema(cell)] for cell in range(CELLS)}


class Load:
    """Transactions in each cell, one after the other, and what their initiators were answered."""

    def __init__(self, tcc: Running, stock: ScriptedParticipant) -> None:
        self._tcc = tcc
        self._numbers: list[Iterator[str]] = [_gids(cell) for cell in range(CELLS)]
        self.states: dict[str, common.TransactionState] = {}
        # Of each cell: when transactions ended, and why others were refused.
        self.ended_at: list[list[float]] = [[] for _ in range(CELLS)]
        self.refused: list[list[str]] = [[] for _ in range(CELLS)]
        self._changed = asyncio.Condition()
        self._others: list[asyncio.Future[None]] = []
        stock.script = _script

    @asynccontextmanager
    async def offered(self) -> AsyncIterator[None]:
        """Offer it during the block. At its end nothing is under way."""
        is_over = asyncio.Event()
        tasks = [
            asyncio.ensure_future(self._run(cell, is_over)) for cell in range(CELLS) for _ in range(IN_FLIGHT)
        ]
        try:
            yield
        finally:
            is_over.set()
            await asyncio.gather(*tasks, *self._others)

    async def _run(self, cell: int, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            await self.execute(next(self._numbers[cell]), cell)

    async def execute(self, gid: str, cell: int) -> None:
        """Execute a transaction. If it is refused, ask again for what became of it once it can be known."""
        request = pb.ExecuteTransactionRequest(
            gid=gid, branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION
        )
        try:
            reply = await self._tcc.stub.ExecuteTransaction(request, timeout=120)
        except grpc.aio.AioRpcError as error:
            self.refused[cell].append(f"{error.code().name} {_reason(error)}: {error.details()}")
            await asyncio.sleep(0.1)
        else:
            self.states[gid] = reply.outcome.state
            self.ended_at[cell].append(monotonic())
        async with self._changed:
            self._changed.notify_all()

    async def until_more(self, cells: list[int], more: int = MORE) -> None:
        """Wait until that many more transactions have ended in each of the cells."""
        wanted = {cell: len(self.ended_at[cell]) + more for cell in cells}
        async with self._changed:
            await self._changed.wait_for(
                lambda: all(len(self.ended_at[cell]) >= least for cell, least in wanted.items())
            )

    async def until_refused(self, cells: list[int]) -> None:
        """Wait until a transaction was refused in each of the cells: others, because those under way wait."""
        for cell in cells:
            while not self.refused[cell]:
                another = asyncio.ensure_future(self.execute(next(self._numbers[cell]), cell))
                self._others.append(another)
                await asyncio.wait([another], timeout=ANOTHER_EVERY_S)

    def silence_s(self, cells: list[int], since: float, until: float) -> float:
        """Return the longest time without the end of a transaction in one of the cells."""
        longest = 0.0
        for cell in cells:
            moments = [since, *(at for at in self.ended_at[cell] if since < at < until), until]
            longest = max([longest, *(after - before for before, after in pairwise(moments))])
        return longest

    async def check(self, url: str, stock: ScriptedParticipant) -> None:
        """Check that the log and the participant have what initiators were answered."""
        in_log = {}
        for cell in range(CELLS):
            in_log.update(await sql(url, f"SELECT gid, state FROM {cell_schema(cell)}.transactions"))
        heard: dict[str, set[int]] = {}
        for call in stock.calls:
            heard.setdefault(call.gid, set()).add(call.operation)
        for gid, state in self.states.items():
            assert in_log[gid] == state, gid
            is_confirmed = state == common.TRANSACTION_STATE_CONFIRMED
            assert is_confirmed or state == common.TRANSACTION_STATE_CANCELLED, gid
            assert not (is_confirmed and _is_rejected(gid)), gid
            # What was rejected needs no Cancel.
            second = common.OPERATION_CONFIRM if is_confirmed else common.OPERATION_CANCEL
            assert heard[gid] - {common.OPERATION_TRY, second} == set(), gid
            assert second in heard[gid] or _is_rejected(gid), gid


def _gids(cell: int) -> Iterator[str]:
    return (gid for gid in (f"order-{number}" for number in count()) if cell_of(gid, CELLS) == cell)


def _is_rejected(gid: str) -> bool:
    return int(gid.removeprefix("order-")) % REJECTED_ONE_IN == 0


async def _script(call: participant_pb2.BranchCall) -> common.CallResult:
    if call.operation == common.OPERATION_TRY and _is_rejected(call.gid):
        return rejected("SOLD_OUT")
    return SUCCEEDED


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status is not None, error
    assert status.details[0].Unpack(info), error
    return info.reason


def fill(url: str, schema: str, gid: str, rows: int) -> None:
    """Copy the row of an ended transaction. The gid is its first column."""
    with psycopg.connect(url) as db, db.cursor() as cursor:
        with cursor.copy(
            f"COPY (SELECT * FROM {schema}.transactions WHERE gid = '{gid}') TO STDOUT"
        ) as source:
            row = b"".join(map(bytes, source)).removeprefix(gid.encode())
        with cursor.copy(f"COPY {schema}.transactions FROM STDIN") as target:
            for number in range(rows):
                target.write(b"old-%d" % number + row)


async def test_a_cell_moves_online_while_all_cells_are_written(
    database_url: str, workers: list[int], stock: ScriptedParticipant
) -> None:
    settings = settings_for({"stock": {"target": stock.address}}, log={"cells": CELLS}, recovery={})
    migrate_cells(cell_places(settings.log, database_url))
    before = await places(database_url)
    assert set(before.values()) == set(workers), "the cells are spread over the workers"
    moved = 3
    others = [cell for cell in range(CELLS) if cell != moved]
    to = next(port for port in workers if port != before[moved])
    async with running(settings, database_url) as tcc:
        load = Load(tcc, stock)
        async with load.offered():
            await load.until_more([moved])
            some = next(gid for gid in load.states if cell_of(gid, CELLS) == moved)
            await asyncio.to_thread(fill, database_url, cell_schema(moved), some, OLD_ROWS)
            quiet_since = monotonic()
            await load.until_more(list(range(CELLS)))
            since = monotonic()
            await sql(database_url, _MOVE, f"tcc_{moved}", to)
            until = monotonic()
            await load.until_more(list(range(CELLS)))
        assert await places(database_url) == before | {moved: to}
        await load.check(database_url, stock)
        assert not any(load.refused), load.refused
    print(
        f"\n{len(load.states)} transactions, none lost; {OLD_ROWS} rows moved in {until - since:.2f} s;"
        f" longest silence of the cell {load.silence_s([moved], since, until):.2f} s, of others"
        f" {load.silence_s(others, since, until):.2f} s (before the move: "
        f"{load.silence_s(list(range(CELLS)), quiet_since, since):.2f} s)"
    )


async def test_writes_are_committed_in_one_phase(database_url: str, workers: list[int]) -> None:
    """In two phases Citus reports a success before the second one, and a reader may find nothing."""
    assert workers
    settings = settings_for({}, log={"cells": CELLS}, recovery={})
    migrate_cells(cell_places(settings.log, database_url))
    # Citus keeps a record of each commit in two phases until it has recovered it: those of the migration.
    await sql(database_url, "SELECT recover_prepared_transactions()")
    log = PostgresLog(LogPool(database_url), owner="ours", name="host:1", cell=3)
    await log.coordinator_heartbeat(lease_s=60)
    one, two, three = await insert(log, begun("a"), begun("b"), begun("c"))
    assert await log.transaction_save([confirming(one), confirming(two)]) == [True, True]
    assert await log.transaction_save([parked(confirming(three), until=1.0)]) == [True]
    assert len(await log.transaction_claim_due({"inventory": 1})) == 1
    assert await log.transaction_release() == 3
    assert await sql(database_url, "SELECT count(*) FROM pg_dist_transaction") == [(0,)]
    await log.close()


@pytest.mark.parametrize("has_home", [False, True], ids=["others", "home"])
async def test_a_killed_worker_stops_only_its_own_cells(
    database_url: str, workers: list[int], stock: ScriptedParticipant, *, has_home: bool
) -> None:
    settings = settings_for({"stock": {"target": stock.address}}, log={"cells": CELLS}, recovery={})
    migrate_cells(cell_places(settings.log, database_url))
    at = await places(database_url)
    victim = next(port for port in workers if (port == at[0]) is has_home)
    lost = [cell for cell, port in at.items() if port == victim]
    others = [cell for cell in at if cell not in lost]
    victim_url = database_url.replace(f":{_port(database_url)}/", f":{victim}/")
    # So that it is killed between the two phases of a commit, if there is one that has two.
    await asyncio.to_thread(configure, victim_url, "SET commit_delay = 100000", "SET commit_siblings = 0")
    async with running(settings, database_url) as tcc:
        load = Load(tcc, stock)
        async with load.offered():
            await load.until_more(list(at))
            cluster = kill(victim_url)
            killed_at = monotonic()
            try:
                await load.until_refused(lost)
                await load.until_more(others)
                restarted_at = monotonic()
            finally:
                start = ["bash", CLUSTER, cluster, str(_port(database_url))]
                await asyncio.to_thread(subprocess.run, start, check=True, stdout=subprocess.DEVNULL)
                await asyncio.to_thread(configure, victim_url, "RESET commit_delay", "RESET commit_siblings")
            started_at = monotonic()
            await load.until_more(list(at))
            on_at = monotonic()
        for cell in lost:
            for refusal in load.refused[cell]:
                assert refusal.startswith("UNAVAILABLE LOG_UNAVAILABLE: "), refusal
        assert not any(load.refused[cell] for cell in others)
        await load.check(database_url, stock)
    print(
        f"\ncells {lost} lost for {started_at - killed_at:.1f} s, {sum(map(len, load.refused))} refused: "
        f"{load.refused[lost[0]][0]!r}; longest silence of the others "
        f"{load.silence_s(others, killed_at, restarted_at):.2f} s; {MORE} more in each cell "
        f"{on_at - started_at:.1f} s after the start; {len(load.states)} transactions, none lost"
    )


def _port(url: str) -> int:
    with psycopg.connect(url) as db:
        return db.info.port


def configure(url: str, *changes: str) -> None:
    """Change settings of a node, by the ends of ALTER SYSTEM statements."""
    with psycopg.connect(url, autocommit=True) as db:
        for change in changes:
            db.execute(f"ALTER SYSTEM {change}")
        db.execute("SELECT pg_reload_conf()")


def kill(url: str) -> Path:
    """Kill all processes of a node. Return the directory of its cluster."""
    with psycopg.connect(url) as db:
        ((data,),) = db.execute("SHOW data_directory").fetchall()
    postmaster = psutil.Process(int(Path(data, "postmaster.pid").read_text().split()[0]))
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)
    return Path(data).parents[1]
