"""Encrypted payloads and results at a participant."""

from tcc.barrier.decisions import CallResult
from tcc.branch import Branch
from tcc.participant.action import RefusalError
from tcc.payload import Encoded, InvalidPayloadError, PayloadCodec, payload_place, result_place


class Opener:
    """Opens the payloads of calls, and seals results."""

    def __init__(self, codec: PayloadCodec, participant: str) -> None:
        self._codec = codec
        self._participant = participant

    def open(self, branch: Branch, sealed: Encoded) -> Encoded:
        """Return the payload. Raises RefusalError."""
        place = payload_place(branch.gid, branch.branch_id, self._participant, branch.action)
        try:
            return self._codec.open(sealed, place)
        except InvalidPayloadError as error:
            raise RefusalError("INVALID_PAYLOAD", str(error)) from error

    def seal_result(self, branch: Branch, outcome: CallResult) -> CallResult:
        """Return the outcome with its result sealed. The barrier keeps it as it is."""
        if not (outcome.result or outcome.content_type):
            return outcome
        plain = Encoded(outcome.result, outcome.content_type)
        data, content_type = self._codec.seal(plain, result_place(branch.gid, branch.branch_id))
        return outcome._replace(result=data, content_type=content_type)
