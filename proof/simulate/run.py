"""Run one seed and return its result."""

import contextlib
import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from time import perf_counter

import structlog
from msgspec import Struct
from msgspec.structs import replace

from proof.history.events import History
from proof.simulate import seams
from proof.simulate.faults import Faults
from proof.simulate.world import World


class RunResult(Struct, frozen=True, kw_only=True):
    """What a seed came to."""

    seed: int
    broken: tuple[str, ...]
    simulated_s: float
    seconds: float
    history: History


def simulate(seed: int) -> RunResult:
    """Run one seed, and judge its history."""
    began = perf_counter()
    with _quiet():
        world = World(seed)
        with seams.installed(
            rng=world.rng,
            network=world.network,
            log=world.log,
            wall_clock=world.wall_clock,
            monotonic=world.monotonic,
        ):
            world.run(Faults(world, world.rng))
            world.loop.close()
    return RunResult(
        seed=seed,
        broken=tuple(world.broken),
        simulated_s=world.loop.time(),
        seconds=perf_counter() - began,
        history=world.observer.recorder.history,
    )


def simulate_briefly(seed: int) -> RunResult:
    """Simulate, and drop the history if the run has no violation."""
    result = simulate(seed)
    return result if result.broken else replace(result, history=[])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No logging, no warnings about what dies unfinished, and no garbage collection in between."""
    configuration = structlog.get_config()
    # A logger that is first used here must not keep this for good.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    # What is there already is of no concern to the collection below.
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
        gc.enable()
        gc.unfreeze()
        sys.unraisablehook = unraisable
        logging.disable(disabled)
        structlog.configure(**configuration)
