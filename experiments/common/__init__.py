"""What `experiments` and `benchmarks` share."""
