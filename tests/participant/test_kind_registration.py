"""Sagas and messages are registered by the rules of actions, and their mistakes explained as theirs."""

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tcc import Participant


@pytest.fixture(params=[True, False], ids=["async", "sync"])
def participant(request: pytest.FixtureRequest) -> Participant:
    make = create_async_engine if request.param else create_engine
    return Participant("payment", database=make("sqlite+aiosqlite://" if request.param else "sqlite://"))


class Async:
    async def execute(self, branch, request, db): ...
    async def compensate(self, branch, request, db): ...


class Sync:
    def execute(self, branch, request, db): ...
    def compensate(self, branch, request, db): ...


async def deliver_async(branch, request, db): ...


def deliver_sync(branch, request, db): ...


def right(participant):
    return (Async, deliver_async) if participant.is_async else (Sync, deliver_sync)


def wrong(participant):
    return (Sync, deliver_sync) if participant.is_async else (Async, deliver_async)


def test_the_decorators_return_what_they_are_given(participant):
    saga, deliver = right(participant)
    assert participant.saga("charge")(saga) is saga
    assert participant.message("mail")(deliver) is deliver


def test_handlers_of_the_other_colour_are_refused(participant):
    saga, deliver = wrong(participant)
    head = "async def" if participant.is_async else "def"
    with pytest.raises(
        TypeError, match=rf"execute of action 'charge' must be .*; write: {head} execute\(self, b"
    ):
        participant.saga("charge")(saga)
    with pytest.raises(
        TypeError, match=rf"deliver of action 'mail' must be .*; write: {head} {deliver.__name__}\(b"
    ):
        participant.message("mail")(deliver)


def test_missing_handlers_are_named(participant):
    with pytest.raises(TypeError, match="action 'charge' has neither execute nor execute_batch"):
        participant.saga("charge")(object())
    with pytest.raises(TypeError, match="action 'mail' has neither deliver nor deliver_batch"):
        participant.message("mail")(object())


def test_wrong_parameters_are_refused(participant):
    if participant.is_async:

        async def deliver(request): ...
    else:

        def deliver(request): ...

    with pytest.raises(
        TypeError, match=r"deliver of action 'mail': .*write: .*def deliver\(branch, request, db\)"
    ):
        participant.message("mail")(deliver)


def test_a_name_is_taken_by_any_kind(participant):
    saga, deliver = right(participant)
    participant.saga("charge")(saga)
    with pytest.raises(ValueError, match="there is an action 'charge' already"):
        participant.message("charge")(deliver)


@pytest.mark.parametrize("decorator", ["action", "saga", "message"])
def test_the_reserved_name_is_refused(participant, decorator):
    class Everything(Async if participant.is_async else Sync):
        pass

    for name in ("try_", "confirm", "cancel", "deliver"):
        setattr(Everything, name, Everything.execute)
    with pytest.raises(ValueError, match="'local' is reserved"):
        getattr(participant, decorator)("local")(Everything)


@pytest.mark.parametrize("decorator", ["action", "saga", "message"])
def test_a_decorator_without_a_name_is_explained(participant, decorator):
    class SendReceipt:
        pass

    with pytest.raises(TypeError, match=rf'write: @participant\.{decorator}\("send_receipt"\)'):
        getattr(participant, decorator)(SendReceipt)


@pytest.mark.parametrize("hook", ["screen", "try_result"])
def test_a_message_has_no_hooks_of_a_try(participant, hook):
    class Mail:
        pass

    Mail.deliver = (Async if participant.is_async else Sync).execute
    setattr(Mail, hook, lambda self, branch, request: None)
    with pytest.raises(TypeError, match=f"{hook} of action 'mail' would never be called"):
        participant.message("mail")(Mail)
