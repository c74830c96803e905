"""Training runs: models, options, the training loop, checkpoints and workdirs."""
