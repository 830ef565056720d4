"""Choices about the processor, made before NumPy is imported."""

import pytest

from flowagent.cpu import tune

FLAGS = "fpu avx2 avx512f avx512vbmi2"


def cpuinfo(path, vendor="AuthenticAMD", family=25, flags=FLAGS, processors=2):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel name\t: A: b\nflags\t\t: {flags}\n"
    file = path / "cpuinfo"
    file.write_text("\n".join([one] * processors))
    return file


def tuned(file, **environ):
    tune(environ, file)
    return environ


def test_without_avx512_on_zen_4(tmp_path):
    disabled = tuned(cpuinfo(tmp_path))["NPY_DISABLE_CPU_FEATURES"].split()
    assert "AVX512_SKX" in disabled or "X86_V4" in disabled


@pytest.mark.parametrize(
    "other", [{"vendor": "GenuineIntel"}, {"family": 26}, {"family": 23}, {"flags": "fpu avx2"}], ids=str
)
def test_other_processors_are_left_alone(tmp_path, other):
    assert "NPY_DISABLE_CPU_FEATURES" not in tuned(cpuinfo(tmp_path, **other))


def test_what_the_user_has_set_stays(tmp_path):
    environ = tuned(cpuinfo(tmp_path), NPY_DISABLE_CPU_FEATURES="AVX2", OPENBLAS_NUM_THREADS="4")
    assert environ == {"NPY_DISABLE_CPU_FEATURES": "AVX2", "OPENBLAS_NUM_THREADS": "4"}


def test_one_thread_for_algebra_nobody_does(tmp_path):
    assert tuned(cpuinfo(tmp_path))["OPENBLAS_NUM_THREADS"] == "1"


def test_without_cpuinfo(tmp_path):
    assert tuned(tmp_path / "missing") == {"OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.parametrize("text", ["", "\n\n", "no colons here\n", ":\n::\n"])
def test_a_strange_cpuinfo(tmp_path, text):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert "NPY_DISABLE_CPU_FEATURES" not in tuned(file)
