"""`tccctl`: the command line for operators, built on AdminService alone."""
