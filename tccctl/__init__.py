"""`tccctl`: what an operator sees and does, over AdminService and nothing else."""
