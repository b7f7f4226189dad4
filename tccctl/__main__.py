"""`python -m tccctl`."""

from tccctl.cli import main

main()
