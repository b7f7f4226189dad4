"""`python -m coordinator` is `tccd`."""

from coordinator.process.cli import main

main()
