"""The experiments of the paper, one module each: `python -m experiments.NAME --help`."""
