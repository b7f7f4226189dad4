"""`python -m coordinator` is `tccd`."""

from coordinator.cli import main

main()
