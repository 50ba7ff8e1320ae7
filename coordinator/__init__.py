"""The coordinator: trusted for availability, and for nothing else."""
