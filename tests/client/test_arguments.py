"""Wrong arguments are explained with the right form, before anything is sent."""

import asyncio
import math
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

import tcc
from tcc.client.requests import execute_request
from tcc.errors import DeadlineExceeded
from tests.client.scripted_service import ScriptedService, serving

BRANCH = tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})
SURROGATE = "caf\udce9"

NOT_A_TEXT = [17, None, b"order-17", ["order-17"], SURROGATE]
NOT_SECONDS = ["10", True, Decimal(10), -1, math.nan, math.inf, 1e300, -math.inf]
NOT_A_NUMBER = ["1", True, 1.0, None, -1, 2**31]
NOT_LABELS = [17, "order", [("order", "17")], {"order": 17}, {17: "order"}, {"order": None}, {"a": SURROGATE}]
NOT_BRANCHES = [
    BRANCH,
    None,
    17,
    "inventory",
    {"inventory": "reserve_stock"},
    [("inventory", "reserve_stock", {"sku": "A"})],
    [BRANCH, {"participant": "inventory"}],
    [[BRANCH]],
]
NOT_A_WAIT = ["forever", "", None, 1, True, []]

# The argument, wrong values, and what the message shows.
EXECUTE = [
    ("gid", [17, b"order-17", ["order-17"], SURROGATE, ""], 'gid="order-17"'),
    ("expiry_s", NOT_SECONDS, "expiry_s=10.0"),
    ("timeout_s", NOT_SECONDS, "timeout_s=10.0"),
    ("labels", NOT_LABELS, 'labels={"order": "17"}'),
    ("wait_for", NOT_A_WAIT, "'decision', 'completion', 'accepted'"),
]
BRANCH_FIELDS = [
    ("participant", [*NOT_A_TEXT, ""], 'tcc.BranchRequest("inventory", "reserve_stock", payload)'),
    ("action", NOT_A_TEXT, 'tcc.BranchRequest("inventory", "reserve_stock", payload)'),
    ("branch_id", NOT_A_TEXT, 'branch_id="stock"'),
    ("stage", NOT_A_NUMBER, "stage"),
    ("payload", [17, "text", object(), {"a": object()}, {"a": math.nan}, {"a": SURROGATE}], ""),
]
CLIENT = [
    ("target", [50050, None, "", "http://127.0.0.1:50050", "https://tcc", SURROGATE], '"127.0.0.1:50050"'),
    ("timeout_s", [*NOT_SECONDS, None], "timeout_s=10.0"),
    ("target", ["127.0.0.1:65536", "dns:///tcc:115586", "ipv4:1.2.3.4:1,1.2.3.4:70000"], "65535"),
    ("initiator", NOT_A_TEXT, 'initiator="shop"'),
    ("gid_prefix", [*NOT_A_TEXT, "a\n", "x" * 93], 'gid_prefix="shop-"'),
    ("tls", [True, "cert.pem", b"-----BEGIN"], "tls=tcc.Tls("),
    ("token", [True, 17, b"secret", "", "a\nb", "é"], "token=pathlib.Path("),
    (
        "channel_options",
        [{"grpc.x": 1}, ["grpc.x"], None, [("grpc.x",)]],
        '[("grpc.max_send_message_length", 8_000_000)]',
    ),
    ("batch_items_max", [*NOT_A_NUMBER, 0], "batch_items_max"),
    ("batch_bytes_max", [*NOT_A_NUMBER, 0], "batch_bytes_max"),
]
LIST = [
    ("states", [["CONFIRMED"], tcc.TransactionState.CONFIRMED, None], "tcc.TransactionState.CONFIRMED"),
    ("participant", NOT_A_TEXT, 'participant="inventory"'),
    ("labels", NOT_LABELS, 'labels={"order": "17"}'),
    ("initiator", NOT_A_TEXT, 'initiator="shop"'),
    ("stuck", ["yes", 1, None], "stuck=True"),
    ("created_after", [datetime(2026, 1, 1), "2026-01-01", 17], "datetime.now(UTC)"),  # noqa: DTZ001 - the point
    ("created_before", [datetime(2026, 1, 1), "2026-01-01", 17], "datetime.now(UTC)"),  # noqa: DTZ001 - the point
    ("page_size", [*NOT_A_NUMBER, 0, 1_001], "page_size"),
    ("timeout_s", NOT_SECONDS, "timeout_s=10.0"),
]


def refused(call, name, values, shown):
    """Return the values that were not refused, or whose message does not help."""
    found = []
    for value in values:
        try:
            call(**{name: value})
        except (TypeError, ValueError) as error:
            text = str(error)
            if shown not in text or any(inside in text for inside in ("pb", "protobuf", "__", "Traceback")):
                found.append((value, text))
        else:
            found.append((value, "accepted"))
    return found


@pytest.fixture
def service():
    return ScriptedService()


async def call_each(service, table, method, **fixed):
    """Call a method of the client with each wrong value of each argument."""

    def work(target):
        problems = []
        with tcc.SyncClient(target) as client:
            for name, values, shown in table:
                problems += refused(lambda **wrong: method(client, **(fixed | wrong)), name, values, shown)
        return problems

    async with serving(service) as target:
        assert await asyncio.to_thread(work, target) == []
    assert service.unary == service.batches == service.requests == []


async def test_execute(service):
    await call_each(service, EXECUTE, lambda client, **arguments: client.execute([BRANCH], **arguments))


async def test_the_list_of_branches(service):
    form = 'tcc.BranchRequest("inventory", "reserve_stock", payload)'
    table = [("branches", NOT_BRANCHES, form)]
    await call_each(service, table, lambda client, branches: client.execute(branches))


async def test_a_branch_of_execute(service):
    await call_each(
        service,
        [row for row in BRANCH_FIELDS if row[0] != "payload"],
        lambda client, **fields: client.execute([tcc.BranchRequest(**fields)]),
        participant="inventory",
        action="reserve_stock",
    )


@pytest.mark.parametrize("value", BRANCH_FIELDS[-1][1])
async def test_a_payload(service, value):
    async with serving(service) as target, tcc.Client(target) as client:
        with pytest.raises(TypeError):
            await client.execute([tcc.BranchRequest("inventory", "reserve_stock", value)])
    assert service.unary == []


async def test_a_transaction(service):
    await call_each(service, EXECUTE, lambda client, **arguments: client.transaction(**arguments))


@pytest.mark.parametrize("add", ["try_", "register"])
async def test_a_branch_of_a_transaction(service, add):
    def method(client, participant="inventory", action="reserve_stock", **fields):
        return getattr(client.transaction(), add)(participant, action, **fields)

    rows = [row for row in BRANCH_FIELDS if row[0] in {"participant", "action"}]
    rows += [("timeout_s", NOT_SECONDS, "timeout_s=10.0")]
    rows += [("branch_id", [17, b"stock", SURROGATE], 'branch_id="stock"')]
    await call_each(service, rows, method)


@pytest.mark.parametrize("name", ["get", "wait", "confirm", "cancel"])
async def test_calls_by_gid(service, name):
    rows = [row for row in EXECUTE if row[0] in {"gid", "timeout_s"}]
    if name != "get":
        rows += [row for row in EXECUTE if row[0] == "wait_for"]
    if name == "cancel":
        rows += [("reason", [17, None, b"fraud"], 'reason="fraud"')]
    await call_each(
        service, rows, lambda client, **arguments: getattr(client, name)(**({"gid": "order-17"} | arguments))
    )


async def test_list(service):
    await call_each(service, LIST, lambda client, **arguments: next(client.list(**arguments)))


async def test_join(service):
    table = [("context", ["order-17", None, {"gid": "order-17"}], 'tcc.TransactionContext(gid="order-17")')]
    await call_each(service, table, lambda client, context: client.join(context))


@pytest.mark.parametrize("make", [tcc.Client, tcc.SyncClient])
@pytest.mark.parametrize(("name", "values", "shown"), CLIENT, ids=[row[0] for row in CLIENT])
def test_a_client(make, name, values, shown):
    assert refused(lambda **wrong: make(**({"target": "127.0.0.1:1"} | wrong)), name, values, shown) == []


async def test_a_branch_without_a_participant_is_not_called_one_without_an_id(service):
    async with serving(service) as target, tcc.Client(target) as client:
        with pytest.raises(ValueError, match=r"^participant is empty"):
            await client.execute([tcc.BranchRequest("", "reserve_stock")])


async def test_a_made_up_gid_begins_with_the_prefix_of_the_client(service):
    async with serving(service) as target:
        async with tcc.Client(target, gid_prefix="shop-") as client:
            await client.execute([BRANCH])
            await client.execute([BRANCH], gid="order-17")
            made = client.transaction().gid

        def synchronously():
            with tcc.SyncClient(target, gid_prefix="shöp-") as client:
                client.execute([BRANCH])
                return client.transaction().gid

        also_made = await asyncio.to_thread(synchronously)
    first, given_, second = service.gids
    assert [gid.removeprefix("shop-").count("-") for gid in (first, made)] == [4, 4]
    assert first.startswith("shop-")
    assert made.startswith("shop-")
    assert given_ == "order-17"
    assert second.startswith("shöp-")
    assert also_made.startswith("shöp-")
    assert len({first, second, made, also_made}) == 4


class SilentService(ScriptedService):
    async def WaitTransaction(self, request, context):  # noqa: N802 - the method's name
        await asyncio.Event().wait()


@pytest.mark.parametrize("timeout_s", [0, 0.001])
async def test_a_timeout_is_named_in_its_error(timeout_s):
    service = SilentService()
    async with serving(service) as target, tcc.Client(target) as client:
        with pytest.raises(DeadlineExceeded, match=rf"no response within timeout_s={timeout_s}") as caught:
            await client.wait("order-17", timeout_s=timeout_s)
    assert ("leaves no time" in str(caught.value)) == (timeout_s == 0)


def test_right_arguments_of_a_client_are_accepted():
    tcc.Client(
        "dns:///tcc:50050",
        gid_prefix="shop-",
        timeout_s=1,
        initiator="shop",
        tls=tcc.Tls(),
        token="secret",
        channel_options=[("grpc.max_send_message_length", 8_000_000)],
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=5,
)


@given(
    branches=ANYTHING | st.just([BRANCH]),
    gid=ANYTHING | st.text(),
    expiry_s=ANYTHING | st.floats(0, 10),
    labels=ANYTHING | st.dictionaries(st.text(), st.text()),
    wait_for=ANYTHING | st.just("decision"),
)
def test_any_value_becomes_a_request_or_a_type_or_value_error(branches, gid, expiry_s, labels, wait_for):
    try:
        request = execute_request(
            branches, gid=gid, expiry_s=expiry_s, labels=labels, wait_for=wait_for, initiator=""
        )
    except (TypeError, ValueError) as error:
        str(error).encode()
    else:
        request.SerializeToString()
