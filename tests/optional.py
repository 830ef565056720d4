"""What tests need that a machine may lack, other than programs."""

import os
from ctypes.util import find_library

import pytest

needs_cairo = pytest.mark.skipif(
    find_library("cairo") is None and os.environ.get("FLOWAGENT_REQUIRE_SERVICES") != "1",
    reason="needs the library cairo",
)
