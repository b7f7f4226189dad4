"""Run a program of the product and kill it at the failpoints in `PROOF_FAILPOINTS`.

python -m proof.faults.child coordinator serve --config FILE
python -m proof.faults.child participants.inventory --listen HOST:PORT
"""

import os
import runpy
import sys

from proof.faults.failpoints import VARIABLE, killer, parse
from tcc._internal import failpoint

# Not under the guard below: a coordinator with several workers has each of them import this module.
if armed := parse(os.environ.get(VARIABLE, "")):
    failpoint.hooks.append(killer(armed))

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    # `sys.modules` is not altered, so that this stays the main module, which the workers import.
    runpy.run_module(sys.argv[0], run_name="__main__")
