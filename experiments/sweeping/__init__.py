"""A grid of runs: which they are, and how they are run: each in a process of its own, or together in one program."""
