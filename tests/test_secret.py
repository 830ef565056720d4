"""Secrets from files."""

import pytest

from flowagent.secret import secret


@pytest.mark.parametrize("content", ["hunter2", "hunter2\n", "  hunter2 \n"])
def test_one_line(tmp_path, content):
    (tmp_path / "token").write_text(content)
    assert secret(str(tmp_path / "token")) == "hunter2"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"a\nb", "is more than one line"), (b"\xff", "is not UTF-8 text")],
)
def test_what_is_wrong_is_said(tmp_path, content, problem):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(OSError, match=problem):
        secret(str(tmp_path / "token"))


def test_what_goes_into_a_header_is_ascii(tmp_path):
    (tmp_path / "token").write_text("grün")
    assert secret(str(tmp_path / "token")) == "grün"
    with pytest.raises(OSError, match="is not ASCII text"):
        secret(str(tmp_path / "token"), "ascii")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"cannot read .*token: No such file"):
        secret(str(tmp_path / "token"))
