"""One timed transfer, and the processor time that the gadget's process used for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Sample",)


@dataclass(frozen=True, slots=True)
class Sample:
    """``length`` bytes in ``seconds``; processor seconds (own, kernel) before and after."""

    what: str
    length: int
    seconds: float
    before: tuple[float, float]
    after: tuple[float, float]

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.length / self.seconds / 1e6

    def where_time_goes(self) -> str:
        """Processor time of the gadget's process, against the time that passed."""
        own, kernel = (a - b for a, b in zip(self.after, self.before, strict=True))
        return (
            f"{self.seconds:.1f} s passed, the gadget's process used {own:.1f} s in Python and "
            f"{kernel:.1f} s in the kernel; the rest is the UDC's and the host's"
        )
