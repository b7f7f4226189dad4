"""Valid W3C Trace Contexts, and invalid ones, which are ignored."""

import pytest

from coordinator.api.initiator.trace_contexts import trace_context
from coordinator.core.model import TraceContext

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"


def test_a_trace_context_has_ids_and_the_sampled_flag() -> None:
    context = trace_context(SAMPLED, "")
    assert context is not None
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE_ID, SPAN_ID, True)


def test_the_sampled_flag_decides_about_recording() -> None:
    said = {
        flags: context.sampled
        for flags in ("00", "01", "02", "03", "ff")
        if (context := trace_context(f"00-{TRACE_ID}-{SPAN_ID}-{flags}", ""))
    }
    assert said == {"00": False, "01": True, "02": False, "03": True, "ff": True}


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert trace_context(f"cc-{TRACE_ID}-{SPAN_ID}-01-more", "") == TraceContext(traceparent=SAMPLED)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-0\u0661",
        f"{SAMPLED}\n",
        f" {SAMPLED}",
    ],
)
def test_an_invalid_trace_context_is_ignored(traceparent: str) -> None:
    assert trace_context(traceparent, "a=1") is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a=1", "a=1"),
        (" a=1, b=2 ", "a=1, b=2"),
        ("a=" + "x" * 510, "a=" + "x" * 510),
        ("a=" + "x" * 511, ""),
        ("a=\u00e9", ""),
        ("a=\x00", ""),
        ("a=1\nb=2", ""),
    ],
)
def test_an_invalid_tracestate_is_dropped(given: str, kept: str) -> None:
    assert trace_context(SAMPLED, given) == TraceContext(traceparent=SAMPLED, tracestate=kept)
