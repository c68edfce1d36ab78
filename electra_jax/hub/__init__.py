"""Weights and configurations to and from Hugging Face folders."""
