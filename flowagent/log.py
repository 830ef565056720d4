"""Logging to stderr: one line an event, levels by name, journald's own time stamps left to it."""

from __future__ import annotations

import logging
import os
import sys

from flowagent.errors import ConfigError


def set_up(level: str) -> None:
    """Send flowagent's log to stderr; under systemd without time stamps, which the journal has already."""
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError("--log-level", f"{level!r} is no level; one of: debug, info, warning, error")
    form = "%(levelname)s %(name)s: %(message)s"
    if "JOURNAL_STREAM" not in os.environ:
        form = "%(asctime)s " + form
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(form, datefmt="%Y-%m-%dT%H:%M:%S%z"))
    logger = logging.getLogger("flowagent")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
