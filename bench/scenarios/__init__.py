"""One file for each scenario, which describes what it compares and returns its results."""

from collections.abc import Callable, Mapping

from bench.options import Options
from bench.report import ScenarioResult
from bench.scenarios import (
    coordinator,
    drain,
    history,
    hot_sku,
    idle,
    isolation,
    memory,
    order_flow,
    overload,
    scaling,
)

# In the order in which `all` runs them.
SCENARIOS: Mapping[str, Callable[[Options], ScenarioResult]] = {
    "coordinator": coordinator.run,
    "drain": drain.run,
    "history": history.run,
    "hot-sku": hot_sku.run,
    "idle": idle.run,
    "isolation": isolation.run,
    "memory": memory.run,
    "order-flow": order_flow.run,
    "overload": overload.run,
    "scaling": scaling.run,
}
