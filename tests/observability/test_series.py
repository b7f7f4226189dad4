"""Our counters and histograms are exported as those of prometheus_client."""

import prometheus_client
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from coordinator.observability.series import Counter, Histogram

BOUNDS = (0.001, 0.5, 1.0, 30.0)
AMOUNTS = st.floats(0, 100) | st.sampled_from(BOUNDS)
LABELS = st.sampled_from(["a", 'b"', "c\n"])


def text(registry: CollectorRegistry) -> list[bytes]:
    """Return what is exported, without the moments of creation, which ours do not have."""
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line]


@given(st.lists(st.tuples(LABELS, AMOUNTS)))
def test_a_histogram_counts_each_amount_in_its_bucket(observed: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seconds", "Spans.", ("kind",), BOUNDS)
    ours.register(histogram)
    expected = prometheus_client.Histogram("seconds", "Spans.", ("kind",), buckets=BOUNDS, registry=theirs)
    for label, amount in observed:
        histogram.labels(label).observe(amount)
        expected.labels(label).observe(amount)
    assert text(ours) == text(theirs)


@given(st.lists(st.tuples(LABELS, st.integers(0, 9))))
def test_a_counter_adds_for_each_value_of_its_label(counted: list[tuple[str, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters = [Counter("calls", "Calls.", ("kind",)), Counter("writes", "Writes.", ())]
    for counter in counters:
        ours.register(counter)
    expected = [
        prometheus_client.Counter("calls", "Calls.", ("kind",), registry=theirs),
        prometheus_client.Counter("writes", "Writes.", (), registry=theirs),
    ]
    for label, amount in counted:
        counters[0].labels(label).inc(amount)
        expected[0].labels(label).inc(amount)
    assert text(ours) == text(theirs)
