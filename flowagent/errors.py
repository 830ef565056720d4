"""The errors that cross a component's border.

    FlowagentError
    ├── ConfigError    the user's configuration is wrong: path, value, remedy (exit 2)
    ├── DecodeError    bytes from outside are wrong: a reason from a bounded set, counted
    ├── Retry          a sink failed for now; the batch may be sent again
    └── Rejected       a sink refuses the batch for good; it is counted and dropped

Foreign exceptions are mapped to one of these once, where they enter, with `from`.
"""

from __future__ import annotations


class FlowagentError(Exception):
    """Base of every error that flowagent raises on purpose."""


class ConfigError(FlowagentError):
    """A setting is wrong; the message names its path, its value and what would be right."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


class DecodeError(FlowagentError):
    """Input bytes do not follow their protocol; `reason` is a metric label, so it is one of few."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Retry(FlowagentError):
    """The sink could not take the batch now; `after` seconds when the other side said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Rejected(FlowagentError):
    """The sink will never take this batch; `reason` is a metric label."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
