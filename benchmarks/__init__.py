"""How fast flowagent is: `python -m benchmarks` prints tables, `python -m benchmarks --help` says which.

One module for each hot path; `loopback` runs the whole agent beside other receivers.
"""

import flowagent  # noqa: F401 - chooses how NumPy sorts, which it must do before NumPy is imported
