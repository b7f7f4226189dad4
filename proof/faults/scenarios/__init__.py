"""What can go wrong beside the death of a process. Each runs under load; the caller judges after it.

A scenario takes the stand and the command line's options and answers its figures.
"""

import argparse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from proof.faults.scenarios.disk_full import fill_the_disk
from proof.faults.scenarios.failover import fail_over
from proof.faults.scenarios.network import cut_commits, degrade_network
from proof.faults.scenarios.postgres import crash_postgres
from proof.faults.scenarios.processes import answer_late, pause_coordinators, restart_everything
from proof.faults.testbed import Testbed

DISK_FULL = "disk-full"

SCENARIOS: Mapping[str, Callable[[Testbed, argparse.Namespace], Awaitable[dict[str, Any]]]] = {
    "paused": pause_coordinators,
    "late-answers": answer_late,
    "rolling-restart": restart_everything,
    "commits-cut": cut_commits,
    "network": degrade_network,
    "postgres-crashes": crash_postgres,
    "failover": fail_over,
    DISK_FULL: fill_the_disk,
}
