"""The planted bugs, by the part of the product that they break.

Snippets are short, so that they survive changes around them. Checks are narrow, so that the
whole list takes minutes: tests of the pure core where they suffice, the explorer's small scopes
where a history is needed, tests on PostgreSQL where the database decides.
"""

from proof.mutants.mutant import Mutant
from proof.mutants.planted import barrier, core, kinds, recovery, security

MUTANTS: tuple[Mutant, ...] = (
    *core.MUTANTS,
    *kinds.MUTANTS,
    *recovery.MUTANTS,
    *barrier.MUTANTS,
    *security.MUTANTS,
)
