"""What is measured, each with one command: `python -m benchmarks` runs all of it."""
