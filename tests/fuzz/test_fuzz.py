"""A short run of the fuzzer, and that it finds and cuts down what it is there to find."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from fuzz.fuzz_decoders import WIDTH, Check, Mutator, corpus, fuzz

from flowagent.ingest.datagrams import Datagrams


@pytest.fixture(scope="module")
def mutator():
    return Mutator(corpus(), seed=5, size=500)


def fuzzed():
    lines = []
    return fuzz(6 * 16_384, seed=2, size=16_384, report=lines.append), lines


def test_a_hundred_thousand_datagrams():
    # In a process of its own: the memory of one that ran thousands of other tests says nothing about the decoder.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        counted, lines = process.submit(fuzzed).result()
    assert counted["datagrams"] == 6 * 16_384
    assert counted["records"] > 100_000
    assert counted["errors"] > 1000
    assert any("growth after warm-up" in line for line in lines)


def test_batches_are_the_same_every_time_and_differ(mutator):
    one, again, other = mutator.batch(1), mutator.batch(1), mutator.batch(2)
    assert [one.payload(i) for i in range(500)] == [again.payload(i) for i in range(500)]
    assert [one.payload(i) for i in range(500)] != [other.payload(i) for i in range(500)]
    assert int(one.length.max()) <= WIDTH


def test_some_datagrams_stay_whole(mutator):
    source = corpus()
    known = {bytes(row[:n]) for row, n in zip(source.bytes, source.length.tolist(), strict=True)}
    batch = mutator.batch(0)
    whole = sum(batch.payload(i) in known for i in range(500))
    assert 100 < whole < 400


class Fragile(Check):
    """Cannot stand a datagram of an odd number of bytes below 100 after one above 1000."""

    def feed(self, datagrams: Datagrams) -> None:
        long = np.flatnonzero(datagrams.length > 1000)
        odd = np.flatnonzero((datagrams.length < 100) & (datagrams.length % 2 == 1))
        if len(long) and len(odd) and long[0] < odd[-1]:
            raise ValueError("as expected")


def test_a_failure_is_cut_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="as expected"):
        fuzz(500, seed=5, size=500, report=lambda _: None, make=Fragile)
    (saved,) = tmp_path.glob("fuzz-5-0.txt")
    note, *lines = saved.read_text().splitlines()
    assert "as expected" in note
    assert [len(line.split()[2]) // 2 > 1000 for line in lines] == [True, False]
