"""Planted bugs: small, plausible breakages of the product, each of which some check must catch.

- `mutant`: what a planted bug is, and the checks that catch it; pure.
- `planted`: the list.
- `trial`: plants one in a copy of the source and runs its check there.

`python -m proof.mutants` plants them all, one at a time. A survivor is a missing test.
"""
