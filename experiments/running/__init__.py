"""Training: what every task's run needs."""
