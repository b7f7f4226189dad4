"""The planted bugs, by the part of the product that they break.

Old texts are short, so that they survive changes around them. Checks are narrow, so that
the whole list takes minutes: the tests of the pure core where they can tell, the explorer's
small scopes where a history is needed, single tests on PostgreSQL where only that knows.
"""

from proof.mutants.mutant import Mutant
from proof.mutants.planted import core, engine, log, participant, reconciliation

MUTANTS: tuple[Mutant, ...] = (
    *core.MUTANTS,
    *engine.MUTANTS,
    *log.MUTANTS,
    *participant.MUTANTS,
    *reconciliation.MUTANTS,
)
