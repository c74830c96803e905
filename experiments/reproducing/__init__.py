"""The paper's tables and figures as populations of runs, and their state as a few files."""
