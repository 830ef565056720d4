"""The traffic model: reproducible, distinct 5-tuples, a few of them with most of it, numbers that fit together."""

import numpy as np
import pytest

from flowagent.generate.traffic import ICMP, TCP, Traffic


def traffic(keys=2000, zipf=1.1, version=4, seed=1):
    return Traffic(np.random.default_rng(seed), keys, zipf, version)


def tuples(columns):
    addresses = zip(columns["src"], columns["dst"], strict=True)
    numbers = zip(columns["src_port"].tolist(), columns["dst_port"].tolist(), columns["protocol"].tolist(), strict=True)
    return [(src.tobytes(), dst.tobytes(), *n) for (src, dst), n in zip(addresses, numbers, strict=True)]


def test_equal_seeds_give_equal_flows_and_others_do_not():
    one, two, other = (traffic(seed=seed).draw(500) for seed in (7, 7, 8))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["bytes"], other["bytes"])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("keys", [1, 15, 127, 128, 143, 5000, 100_000])
def test_every_key_is_a_5_tuple_of_its_own(keys, version):
    found = tuples(traffic(keys, version=version).keys)
    assert len(found) == len(set(found)) == keys


def test_a_flow_has_the_columns_of_its_key():
    model = traffic(300)
    flows = model.draw(1000)
    keys = tuples(model.keys)
    assert tuples(flows) == [keys[i] for i in flows["key"]]


def test_popularity_follows_zipf():
    n, keys = 200_000, 1000
    weights = np.arange(1, keys + 1) ** -1.1
    expected = n * weights / weights.sum()
    drawn = np.bincount(traffic(keys).draw(n)["key"], minlength=keys)
    top = slice(0, 20)
    assert np.all(np.abs(drawn[top] - expected[top]) < 5 * np.sqrt(expected[top]))
    uniform = np.bincount(traffic(keys, zipf=0).draw(n)["key"], minlength=keys)
    assert uniform.max() < 2 * n / keys


def test_a_few_flows_have_most_of_the_bytes():
    octets = np.sort(traffic().draw(100_000)["bytes"])[::-1]
    assert octets[:2000].sum() > 0.6 * octets.sum()
    assert octets[-1] >= 64
    assert octets[0] < 2**32


def test_packets_have_sizes_that_exist():
    flows = traffic().draw(50_000)
    mean = flows["bytes"] / flows["packets"]
    assert flows["packets"].min() == 1
    assert mean.min() >= 64
    assert np.all(mean <= flows["mean_size"])
    assert flows["mean_size"].max() <= 1460


def test_times_lie_shortly_before_the_export():
    flows = traffic().draw(10_000)
    assert flows["end_ago"].min() >= 0
    assert flows["end_ago"].max() < 1000
    assert np.all(flows["start_ago"] >= flows["end_ago"])
    assert np.all((flows["start_ago"] == flows["end_ago"])[flows["packets"] == 1])
    assert flows["start_ago"].max() <= 61_000


@pytest.mark.parametrize("version", [4, 6])
def test_protocols_keep_their_fields(version):
    flows = traffic(version=version).draw(20_000)
    tcp, echo = flows["protocol"] == TCP, flows["protocol"] == ICMP[version]
    assert tcp.mean() > 0.5
    assert 0 < echo.mean() < 0.2
    assert np.all(flows["tcp_flags"][tcp] > 0)
    assert not flows["tcp_flags"][~tcp].any()
    assert not flows["src_port"][echo].any()
    assert set(flows["dst_port"][echo].tolist()) <= ({0x0800, 0} if version == 4 else {0x8000, 0x8100})


def test_one_side_of_every_flow_is_the_site():
    keys = traffic().keys
    site = {(10, 244), (192, 168), (172, 20)}
    near = np.where(keys["outbound"][:, None], keys["src"], keys["dst"])
    assert {(int(a), int(b)) for a, b in near[:, 12:14]} <= site
    assert set(np.where(keys["outbound"], keys["out_if"], keys["in_if"]).tolist()) == {47, 48}
    assert 0.4 < keys["outbound"].mean() < 0.6
