"""One file for each scenario, which describes what it compares and returns its results."""

from collections.abc import Callable, Mapping

from bench.options import Options
from bench.report import ScenarioResult
from bench.scenarios import (
    coordinator,
    drain,
    gate,
    history,
    idle,
    kinds,
    lone,
    memory,
    order_flow,
    overload,
)

_MODULES = (
    coordinator,
    drain,
    gate,
    history,
    idle,
    kinds,
    lone,
    memory,
    order_flow,
    overload,
)
# In the order in which `all` runs them.
SCENARIOS: Mapping[str, Callable[[Options], ScenarioResult]] = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module.run for module in _MODULES
}
