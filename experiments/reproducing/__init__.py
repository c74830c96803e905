"""Populations of runs for the paper's tables and figures, and the storage of their state in a few files."""
