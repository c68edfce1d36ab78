"""Metrics, progress, tables."""
