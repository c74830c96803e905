"""Code that `experiments` and `benchmarks` share."""
