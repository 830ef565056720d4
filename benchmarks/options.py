"""What the command line asked for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    quick: bool = False
    """Fewer cases, shorter."""
    maximum: bool = False
    """Loopback: the highest rate instead of fixed ones."""
    rounds: int = 3
    """Loopback: how often each case is tried."""
    seconds: float = 4
    """Loopback: how long a trial sends."""

    @property
    def enough(self) -> float:
        """Seconds of processor time that a figure outside of loopback rests on."""
        return 0.02 if self.quick else 0.5
