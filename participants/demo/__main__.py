"""Run a flash sale with real processes, kill some of them, and audit the result."""

import argparse
import asyncio
import json
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from participants import redis_server
from participants.audit import audit, list_transactions, read_snapshot
from participants.child_process import ChildError
from participants.demo.cluster import Cluster
from participants.demo.display import Display
from participants.demo.load import LoadResult, run_load
from participants.demo.plan import SHIPPING, SHOP, Plan, make_plan
from participants.demo.summary import Summary, as_json, confirmed, effects, summarise

ORDERS_DEFAULT = 1_800
_SEEDS = 1_000_000
_INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run the demo; exit with 0 only if every order is decided, the audit passes and all kills happened."""
    options = _options()
    # With --json, standard output holds only the JSON object.
    display = Display(Console(stderr=options.json))
    missing = redis_server.missing() if options.redis else ""
    if missing:
        print(f"--redis: {missing}", file=sys.stderr)  # noqa: T201
        return 1
    plan = make_plan(orders=options.orders, seed=options.seed, ships=options.redis)
    try:
        summary = asyncio.run(_run(plan, display))
    except ChildError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the reason is the output
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    display.show(summary)
    if options.json:
        print(json.dumps(as_json(summary)), flush=True)  # noqa: T201
    return 0 if summary.is_well else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tccd demo", description=__doc__)
    parser.add_argument(
        "--orders", type=_count, default=ORDERS_DEFAULT, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(_SEEDS), help="repeat the plan of an earlier run"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument(
        "--redis",
        action="store_true",
        help="with Redis: its stock gate, and shipping that is moved by events",
    )
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number, at least 1")
    return int(text)


async def _run(plan: Plan, display: Display) -> Summary:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="tcc-demo-") as home:
        display.note(
            f"starting PostgreSQL, five participants, a coordinator and two checkouts (seed {plan.seed})"
        )
        if plan.ships:
            display.note("with Redis: its stock gate, the participant events and the service shipping")
        async with Cluster(Path(home), ships=plan.ships) as cluster:
            await cluster.seed(plan.stock, plan.coupons)
            load = await _run_load_unless_failed(plan, cluster, display)
            if plan.ships:
                await cluster.shipped(confirmed(load.records))
            display.note("auditing the databases")
            audited = (*SHOP, SHIPPING) if plan.ships else SHOP
            snapshot = await read_snapshot(**{name: cluster.databases[name] for name in audited})
            transactions = await asyncio.to_thread(lambda: list(list_transactions(cluster.address)))
    return summarise(plan, load, audit(snapshot, transactions), effects(snapshot))


async def _run_load_unless_failed(plan: Plan, cluster: Cluster, display: Display) -> LoadResult:
    """Run the load; stop it when a process ends unexpectedly."""
    with display.placing(len(plan.orders)):
        load = asyncio.create_task(run_load(plan, cluster, on_order=display.advance, on_kill=display.note))
        failure = asyncio.create_task(cluster.failed())
        try:
            await asyncio.wait({load, failure}, return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
            return load.result()
        finally:
            for task in (load, failure):
                task.cancel()
            await asyncio.gather(load, failure, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
