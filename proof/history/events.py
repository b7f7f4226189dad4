"""What a history is made of: frozen events, in the order in which they happened; JSON, one a line.

Every event has `at`: seconds as a plain float, by one clock that all recorders of a
run share (the simulator's own time, which never jumps; one machine's real clock).
Order is what is judged, so a cause is never stamped later than its effect:

- stamp a `Request` before it is sent, a `Reply` after it came;
- stamp `Registered` and `Decided` by the log no later than the commit (the time of
  the log's transaction does), a `Call` when it arrives at the participant;
- record an `Effect` where it happens: in the participant's own local transaction, so
  that a killed process can neither lose nor invent one.

Whether something is judged that needs an end (settlement) depends on `Settled`: the
recorder says by it that faults have stopped, and that there was time for everything
to end. `Final` and `StockTotals` are read after that, when nothing is under way.
"""

from enum import StrEnum

import msgspec
from msgspec import Struct

# The observer of what is durable: the transaction log itself.
LOG = "log"


class Operation(StrEnum):
    """The calls. A history names them, and its checker shares no code with what it judges."""

    TRY = "TRY"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"
    CHECK = "CHECK"


class Kind(StrEnum):
    """The kinds of branches. LOCAL: the initiator's own change, whose Try is its local commit."""

    TCC = "TCC"
    SAGA = "SAGA"
    MESSAGE = "MESSAGE"
    LOCAL = "LOCAL"


class Decision(StrEnum):
    """What is decided of a transaction."""

    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"


class TransactionState(StrEnum):
    """How the log says that a transaction stands; the names are those of the core's states."""

    TRYING = "TRYING"
    CONFIRMING = "CONFIRMING"
    CANCELLING = "CANCELLING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


class Verb(StrEnum):
    """What an initiator asks for."""

    EXECUTE = "EXECUTE"
    BEGIN = "BEGIN"
    TRY_BRANCH = "TRY_BRANCH"
    REGISTER_BRANCH = "REGISTER_BRANCH"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"
    WAIT = "WAIT"
    GET = "GET"


class ReplyOutcome(StrEnum):
    """The reply that an initiator received.

    UNKNOWN: no answer, or one that leaves the outcome open (a deadline, an unreachable
    server, OWNER_CHANGED); such a request may have taken effect. REFUSED: a clear no;
    its reason is the one on the wire. The others acknowledge that the transaction
    exists: ACCEPTED without saying more, TRIED that the branch's Try succeeded, and
    CONFIRMED and CANCELLED the decision.
    """

    ACCEPTED = "ACCEPTED"
    TRIED = "TRIED"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"


class Event(Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Something that happened."""

    at: float


class Request(Event, tag="request", frozen=True, kw_only=True):
    """An initiator asks. A repeat is a request of its own."""

    request: str
    initiator: str
    verb: Verb
    # Empty where the coordinator is to choose it.
    gid: str = ""
    branch_id: str = ""
    # Identifies the content: equal digests ask for the same thing.
    digest: str = ""
    # All branches of a request that has several.
    branch_ids: tuple[str, ...] = ()
    # Whom the initiator belongs to; empty: the recorder does not say.
    tenant: str = ""


class Reply(Event, tag="reply", frozen=True, kw_only=True):
    """An initiator receives the outcome of a request, or gives up waiting."""

    request: str
    gid: str
    outcome: ReplyOutcome
    # Every branch has carried the decision out.
    completed: bool = False
    reason: str = ""


class Registered(Event, tag="registered", frozen=True, kw_only=True):
    """These branches have become durable in the log. A recorder may leave such events out altogether."""

    gid: str
    branch_ids: tuple[str, ...]
    # Of the same length; empty: all are TCC.
    kinds: tuple[Kind, ...] = ()
    # Whom the transaction belongs to; empty: the recorder does not say.
    tenant: str = ""


class Decided(Event, tag="decided", frozen=True, kw_only=True):
    """An observer saw the decision. By `LOG`: it has become durable."""

    gid: str
    decision: Decision
    observer: str


class Call(Event, tag="call", frozen=True, kw_only=True):
    """A call reached a participant, for the first time or again."""

    gid: str
    branch_id: str
    participant: str
    operation: Operation


class Effect(Event, tag="effect", frozen=True, kw_only=True):
    """A participant's local commit: the handler ran, and what it did is durable.

    A repeat that the barrier answers is no effect, nor is a Try that ended
    in a no. `quantity` is what the operation moved, in whole units: Try from available
    to reserved, Confirm from reserved to taken, Cancel from reserved back to available. A
    SAGA's Try moves from available to taken, its Cancel back; a MESSAGE moves nothing.
    `tombstone`: a Cancel that found nothing to cancel and left its mark; it moves nothing,
    and recording it is optional.
    """

    gid: str
    branch_id: str
    participant: str
    operation: Operation
    quantity: int = 0
    tombstone: bool = False
    kind: Kind = Kind.TCC


class Fault(Event, tag="fault", frozen=True, kw_only=True):
    """What was done to the system; for the story, never judged."""

    kind: str
    target: str = ""
    detail: str = ""


class Settled(Event, tag="settled", frozen=True, kw_only=True):
    """Faults have stopped, and there was time for everything to end."""


class Final(Event, tag="final", frozen=True, kw_only=True):
    """A row of the log at the end of the run."""

    gid: str
    state: TransactionState
    branch_ids: tuple[str, ...]
    kinds: tuple[Kind, ...] = ()
    # The content of the request that began it, where the recorder can tell.
    digest: str = ""


class StockTotals(Event, tag="books", frozen=True, kw_only=True):
    """A participant's own count of its units, at the end of the run."""

    participant: str
    initial: int
    available: int
    reserved: int
    taken: int


AnyEvent = Request | Reply | Registered | Decided | Call | Effect | Fault | Settled | Final | StockTotals
History = list[AnyEvent]

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """One line, with its end."""
    return _encoder.encode(event) + b"\n"


def decode(line: bytes) -> AnyEvent:
    """The event of one line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(line)
