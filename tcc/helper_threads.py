"""Threads that help the one that computes, and should not push it aside."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def helper_threads() -> Iterator[None]:
    """Threads that are started in this block, and by those, wait for a CPU until somebody leaves one.

    gRPC wakes threads of its own for almost every event. Otherwise they would take the event loop's
    CPU at once, several times a call, each for a few microseconds. Linux only (its scheduling policy
    SCHED_BATCH); elsewhere, in sandboxes that refuse it, and where somebody has chosen another policy for
    the process, nothing changes.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        logger.info("gRPC's threads keep the ordinary scheduling policy: %s", error)
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
