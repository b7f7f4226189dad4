"""The filter language: every term, and a precise message for every mistake."""

import pytest

from coordinator.api.operator.filter import parse
from coordinator.core.errors import InvalidRequest
from coordinator.core.model import TransactionState
from coordinator.ports.log import ListFilter

NOW = 10_000.0


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", ListFilter()),
        ("   ", ListFilter()),
        ("state=CONFIRMING", ListFilter(states=(TransactionState.CONFIRMING,))),
        (
            "state=trying,cancelling",
            ListFilter(states=(TransactionState.TRYING, TransactionState.CANCELLING)),
        ),
        ("stuck !held", ListFilter(stuck=True, held=False)),
        ("live heuristic", ListFilter(live=True, heuristic=True)),
        ("quarantined", ListFilter(quarantined=True)),
        ("held !quarantined", ListFilter(held=True, quarantined=False)),
        ("participant=inventory initiator=shop", ListFilter(participant="inventory", initiator="shop")),
        ("label.region=eu label.a.b=c=d", ListFilter(labels=(("a.b", "c=d"), ("region", "eu")))),
        ("age>5m", ListFilter(created_before=NOW - 300)),
        ("age<=1h30m", ListFilter(created_after=NOW - 5_400)),
        ("age>1.5s age<500ms", ListFilter(created_before=NOW - 1.5, created_after=NOW - 0.5)),
        ("age>9999d", ListFilter(created_before=0.0)),
        ("gid=order-17", ListFilter(gids=("order-17",))),
        ('initiator="a b"', ListFilter(initiator="a b")),
        ('label.k="say \\"hi\\", \\\\"', ListFilter(labels=(("k", 'say "hi", \\'),))),
        (
            "state=CONFIRMING stuck age>5m label.region=eu participant=inventory",
            ListFilter(
                states=(TransactionState.CONFIRMING,),
                stuck=True,
                created_before=NOW - 300,
                labels=(("region", "eu"),),
                participant="inventory",
            ),
        ),
    ],
)
def test_a_filter_is_parsed(text: str, chosen: ListFilter) -> None:
    assert parse(text, NOW) == chosen


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("state=DONE", 0, "unknown state 'DONE'; known: TRYING"),
        ("stuck state=", 6, "unknown state ''"),
        ("stuc", 0, "unknown flag 'stuc'; known: live"),
        ("participant", 0, "participant requires a value"),
        ("stuck=yes", 0, "flags take no value"),
        ("participants=x", 0, "unknown field 'participants'; known: state"),
        ("participant!=x", 0, "participant supports only =, not !="),
        ("participant=", 0, "participant requires a value"),
        ("participant=a,b", 0, "takes one value"),
        ("age=5m", 0, "age supports <, <=, > and >="),
        ("age>5", 0, "'5' is not a duration"),
        ("age>5m3", 0, "'5m3' is not a duration"),
        ("age>", 0, "'' is not a duration"),
        ("  stuck  stuck", 9, "the same condition is given twice"),
        ("stuck !stuck", 6, "the same condition is given twice"),
        ("label.a=1 label.a=2", 10, "label.a is given twice"),
        ('initiator="a b', 0, "a quote is not closed"),
        ('initiator="a"b', 0, "is not a quoted value"),
        ("=x", 0, "is not a term"),
        ("initiator=a\0b", 11, "not printable"),
        ("x" * 3_000, 0, "at most 2000 characters"),
    ],
)
def test_an_invalid_filter_is_refused_with_its_position(text: str, position: int, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, NOW)
    assert caught.value.reason == "INVALID_FILTER"
    assert words in caught.value.message
    assert caught.value.metadata["position"] == str(position)
