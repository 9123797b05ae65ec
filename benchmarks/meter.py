"""Clock and memory of one training."""

import resource
import sys
import time

import psutil

MIB = 2**20
WARM_UP = 2  # windows that fill caches and allocators before the clock starts


def resident() -> float:
    """Resident memory of this process now, in MiB."""
    return psutil.Process().memory_info().rss / MIB


def peak_resident() -> float:
    """The most resident memory that this process ever had, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


class Meter:
    """Is told of every window and says whether to go on; create it when imports and data set are there.

    Args:
        unroll: inner steps in one window.
        seconds: time to measure after the warm-up.
        windows: the most windows to run, warm-up included; at least 10.
    """

    def __init__(self, unroll: int, seconds: float, windows: int) -> None:
        self.unroll, self.seconds, self.windows = unroll, seconds, windows
        self.baseline = resident()
        self.count = 0
        self.elapsed = 0.0
        self.settled: float | None = None
        self._start = 0.0

    def window_done(self) -> bool:
        """Whether to go on."""
        now = time.perf_counter()
        self.count += 1
        if self.count == WARM_UP:
            self._start = now
        elif self.count > WARM_UP:
            self.elapsed = now - self._start
        if self.count == self.windows // 10:
            self.settled = resident()
        return self.elapsed < self.seconds and self.count < self.windows

    def reading(self) -> dict[str, float | None]:
        """Speed in inner steps a second, memory in MiB; ``settled`` is the memory after a tenth of all windows."""
        return {
            "windows": self.count,
            "steps_per_second": (self.count - WARM_UP) * self.unroll / self.elapsed,
            "baseline": self.baseline,
            "peak": peak_resident(),
            "settled": self.settled,
            "end": resident(),
        }
