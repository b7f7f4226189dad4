"""The deployed dashboard and rules use only existing metrics, and every alert is in the runbook."""

import json
import re
from pathlib import Path

import pytest
import yaml

from coordinator.core.model import TransactionState
from coordinator.core.reconciliation import FindingKind
from coordinator.engine.clock import LogClock
from coordinator.engine.dispatcher import ParticipantPolicy
from coordinator.engine.engine import Engine
from coordinator.jobs.reconcile import ScanResult
from coordinator.log.store import LogPool, PostgresLog
from coordinator.observability.metrics import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Gauges,
    LogGauges,
    Metrics,
    StreamLoads,
)
from coordinator.participant_client.client import ParticipantClient
from coordinator.ports.operator_log import Backlog
from coordinator.ports.participants import StreamLoad
from participants.inventory.gate_metrics import GateMetrics

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "monitoring" / "grafana-dashboard.json"
RULES = ROOT / "deploy" / "monitoring" / "alerts.yaml"
RUNBOOK = (ROOT / "docs" / "RUNBOOK.md").read_text()


async def known_metrics() -> dict[str, set[str]]:
    """The names of all samples that a worker can show, with their labels."""

    async def ask() -> Backlog:
        return Backlog(
            by_state={TransactionState.TRYING: 1},
            parked=1,
            stuck=1,
            held=1,
            at=2.0,
            count_max=10,
            oldest_created_at=1.0,
            waiting_on={"stock": 1},
        )

    clock = LogClock()
    clock.set(0.0, asked_at=0.0, answered_at=0.0)
    metrics = Metrics(clock.monotonic)
    metrics.certificate_files = [Path("/etc/tcc/tls.crt")]
    metrics.heartbeat()
    metrics.outcomes_read("webhook", 0, 0.0)
    metrics.purged(0, finished=True)
    log = LogGauges(ask, clock.monotonic)
    await log.run_once()
    engine = Engine(
        log=PostgresLog(LogPool("postgresql://nowhere/tcc"), owner="o", name="n"),
        participants=ParticipantClient({}, result_bytes_max=1),
        policies={"stock": ParticipantPolicy()},
        clock=clock,
        observer=metrics,
    )
    scans = {"stock": ScanResult(at=0.0, findings={FindingKind.ORPHAN: 1})}
    load = StreamLoad(streams=1, in_flight=1)
    streams = StreamLoads({"stock": load}, load)
    gauges = Gauges(engine, clock, metrics, log, lambda: scans, streams=lambda: streams)
    known: dict[str, set[str]] = {"process_cpu_seconds_total": set()}
    for collector in (*metrics.counters.values(), *metrics.histograms.values(), gauges):
        for family in collector.collect():
            labels = set(getattr(collector, "label_names", ()))
            labels |= {label for sample in family.samples for label in sample.labels}
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            for suffix in suffixes.get(family.type, [""]):
                known[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return known


async def metrics_of_the_stock_gate() -> dict[str, set[str]]:
    """The names of all samples of the shop's gate in Redis, with their labels."""
    text = await GateMetrics().text()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    return {re.split(r"[{ ]", line)[0]: set(re.findall(r"(\w+)=", line)) for line in samples}


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    of_panels = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return of_panels + [rule["expr"] for rule in rules()]


def rules() -> list[dict[str, object]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:tcc|process)_[a-z_]+\b", expression))


async def test_the_table_of_metrics_is_complete() -> None:
    known = await known_metrics()
    expected: dict[str, set[str]] = {"process_cpu_seconds_total": set()}
    for spec in COUNTERS:
        expected[f"{spec.name}_total"] = set(spec.labels)
    for spec in HISTOGRAMS:
        expected |= {key: set(spec.labels) for key in (f"{spec.name}_sum", f"{spec.name}_count")}
        expected[f"{spec.name}_bucket"] = {"le", *spec.labels}
    for spec in GAUGES:
        expected[spec.name] = set(spec.labels)
    assert known == expected


async def test_every_metric_that_is_asked_for_exists() -> None:
    known = await known_metrics() | await metrics_of_the_stock_gate()
    asked = {name for expression in expressions() for name in names(expression)}
    assert len(asked) > 20
    assert asked - known.keys() == set()


async def test_every_label_that_is_asked_for_exists() -> None:
    known = await known_metrics() | await metrics_of_the_stock_gate()
    for expression in expressions():
        labels = {
            label.strip()
            for group in re.findall(r"\bby \(([^)]*)\)", expression)
            for label in group.split(",")
        }
        labels |= set(re.findall(r"[{,]\s*([a-z_]+)\s*=", expression))
        # Prometheus adds the instance.
        allowed = {"instance"}.union(*(known[name] for name in names(expression)))
        assert labels <= allowed, expression


async def test_every_metric_is_in_the_dashboard_or_a_rule_or_listed_as_unused() -> None:
    asked = {name for expression in expressions() for name in names(expression)}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in await known_metrics()}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    restart_required = {
        *("tcc_transactions_decided_total", "tcc_transactions_purged_total", "tcc_watched_transactions"),
        *("tcc_draining", "tcc_log_gauges_age_seconds", "tcc_insecure"),
    }
    assert ours - shown == restart_required


def test_every_alert_has_its_entry_and_every_entry_its_alert() -> None:
    alerts = [str(rule["alert"]) for rule in rules()]
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == alerts
    for rule in rules():
        annotations = rule["annotations"]
        assert annotations["runbook"] == f"docs/RUNBOOK.md#{str(rule['alert']).lower()}"  # type: ignore[index]
        assert rule["labels"]["severity"] in {"page", "ticket"}  # type: ignore[index]


@pytest.mark.parametrize("entry", re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:])
def test_an_entry_has_what_to_check_and_what_to_do(entry: str) -> None:
    assert "\nLook: " in entry
    assert "\nDo: " in entry
