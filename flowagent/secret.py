"""A password or token from a file: never in the configuration, and read anew each time, so that it can be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def secret(path: str, encoding: Literal["utf-8", "ascii"] = "utf-8") -> str:
    """The one line that the file has, without blanks around it; OSError that says what is wrong with it."""
    try:
        text = Path(path).read_text(encoding).strip()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OSError(f"{path} is not {encoding.upper()} text") from error
    if not text or not text.isprintable():
        raise OSError(f"{path} is {'more than one line' if text else 'empty'}")
    return text
