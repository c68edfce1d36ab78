"""Optimiser, step, loop, checkpoints."""
