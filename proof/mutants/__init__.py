"""Planted bugs: small, plausible defects of the product. Some check must catch each of them.

- `mutant`: a planted bug: one edit of the syntax tree of one definition, found by its name; pure.
- `planted`: the list.
- `trial`: plants one in a copy of the source and runs its check there.

`python -m proof.mutants` plants them all, one at a time. A survivor is a missing test.
"""
