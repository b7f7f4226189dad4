"""`python -m proof.mutants`: plant every bug, one at a time. The last line of standard output is JSON."""

import sys

from proof.mutants.program import main

if __name__ == "__main__":
    sys.exit(main())
