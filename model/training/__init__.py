"""Training: data, objective, loops, checkpoints, distributed ranks."""
