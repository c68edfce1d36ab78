"""`python -m electra_jax` is the command `electra-jax`."""

from electra_jax.cli import main

main()
