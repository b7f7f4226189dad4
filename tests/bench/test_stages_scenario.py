"""The stages of one transaction are timed with the coordinator's own functions."""

from bench.options import Options
from bench.scenarios import stages


def test_every_stage_of_a_happy_transaction_is_timed_once() -> None:
    found = stages.run(Options().as_quick()).as_json()
    names = list(found["stages_us"])
    assert names[0] == "request: parse"
    assert names[-1] == "core: completion saved"
    assert {"core: Try answered", "core: Confirm answered", "reply to the initiator"} <= set(names)
    assert all(us > 0 for us in found["stages_us"].values())
    assert found["cpu_us_per_transaction"] > max(found["stages_us"].values())
