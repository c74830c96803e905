"""Grids of runs, executed as one process per run or together in one program."""
