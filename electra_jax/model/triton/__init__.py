"""Kernels for NVIDIA GPUs, written in Pallas and compiled by Triton; on a CPU they are interpreted, for tests."""
