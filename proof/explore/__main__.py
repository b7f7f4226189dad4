"""`python -m proof.explore`."""

import sys

from proof.explore.program import main

if __name__ == "__main__":
    sys.exit(main())
