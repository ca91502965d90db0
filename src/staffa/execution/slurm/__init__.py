"""Workers as SLURM jobs: scripts, commands, and the keeper that holds as many as are wanted."""
