"""How fast training goes."""

import time
from typing import Any

import jax


class Clock:
    """Seconds a step since the last lap, by the devices' clock: a lap ends where figures were fetched from them."""

    def __init__(self) -> None:
        self.seconds_a_step, self._steps, self._since = 0.0, -1, 0.0

    def tick(self, counts: Any) -> None:
        """A step was started. The first is waited for and not counted: it holds the compilation."""
        self._steps += 1
        if self._steps == 0:
            jax.block_until_ready(counts)
            self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._steps, self._since = 0, time.perf_counter()

    def lap(self) -> float:
        """Seconds a step, 0 where no step was counted; starts the next lap."""
        if self._steps > 0:
            self.seconds_a_step = (time.perf_counter() - self._since) / self._steps
        result = self.seconds_a_step if self._steps > 0 else 0.0
        self.restart()
        return result
