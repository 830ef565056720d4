"""Names from a server through any churn, and from another agent's snapshots."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_api import KubeApi, owned, pod, service
from kube_running import is_ready, named, running, samples, serving, shop, until

from flowagent.enrich import kube_owners, kube_watch, kubernetes
from flowagent.enrich.kubernetes import Config


async def test_an_agent_takes_the_names_of_another(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as giver:
        await until(is_ready(giver))
        async with serving(giver) as (url, asked):
            config = Config(snapshot_url=url, snapshot_every="20ms")
            async with running(config) as taker:
                await until(is_ready(taker))
                for address in ("10.0.0.5", "10.0.0.6", "172.30.0.9", "203.0.113.7", "192.0.2.1", "8.8.8.8"):
                    for part in kubernetes.PARTS:
                        assert named(taker, address, part) == named(giver, address, part)
                await until(lambda: 304 in asked)
                giver._made = -np.inf
                await api.put("pods", pod("new", "10.0.0.9"))
                await until(lambda: named(taker, "10.0.0.9") == "new")
                assert samples(taker, "requests")["snapshot", "get", "304"] >= 1


async def test_a_snapshot_that_cannot_be_used_leaves_the_names_that_are_known(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as giver:
        await until(is_ready(giver))
        async with serving(giver) as (url, asked):
            async with running(Config(snapshot_url=url, snapshot_every="20ms")) as taker:
                await until(is_ready(taker))
                data, _ = giver.snapshot()
                asked.wrong = data[:-5]
                before = len(asked)
                await until(lambda: len(asked) > before + 2)
                assert taker.ready() is None
                assert named(taker, "10.0.0.5") == "web-5d4-abc"
            async with running(Config(snapshot_url=url)) as late:
                assert "cut off" in await until(lambda: late.ready() if "cut" in (late.ready() or "") else None)


IPS, VIPS = [f"10.9.0.{i}" for i in range(6)], [f"10.8.0.{i}" for i in range(12)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pod"), st.integers(0, 5), st.integers(0, 5)),
        st.tuples(st.just("done"), st.integers(0, 5)),
        st.tuples(st.just("gone"), st.integers(0, 5)),
        st.tuples(st.just("service"), st.integers(0, 5)),
        st.tuples(st.just("cut"), st.binary(max_size=3)),
        st.tuples(st.sampled_from(["compact", "expire", "bookmark", "settle", "refuse", "allow"])),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, page=st.integers(1, 3), error_events=st.booleans())
def test_after_any_churn_the_table_says_what_the_cluster_is(tmp_path_factory, steps, page, error_events):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kubernetes, "_APART_SECONDS", 0.002)
        patched.setattr(kube_watch, "_FIRST_SECONDS", 0.002)
        patched.setattr(kube_watch, "_MOST_SECONDS", 0.01)
        patched.setattr(kube_owners, "_APART_SECONDS", 0.0)
        asyncio.run(churn(tmp_path_factory.mktemp("churn"), steps, page, error_events))


async def churn(folder, steps, page, error_events):
    api = await KubeApi(max_page=page).start()
    api.error_events = error_events
    for number in range(6):
        await api.put("replicasets", owned(f"rs{number}", f"rs-{number}", ("Deployment", f"app{number}", "d")))
    try:
        async with running(Config(kubeconfig=api.kubeconfig(folder), mode="full", history=0)) as enricher:
            for number, step in enumerate(steps):
                await take(api, step, number)
            api.refused.clear()
            there = {(kind,): len(api.objects[kind]) for kind in ("pods", "services", "nodes")}
            await until(lambda: said(enricher) == expected(api) and samples(enricher, "objects") == there)
    finally:
        await api.stop()


async def take(api, step, number):
    """One change of the cluster, or of the way to it."""
    kind, *values = step
    if kind in ("pod", "done", "gone"):
        await change_pod(api, kind, values, number)
    elif kind == "service":
        (which,) = values
        await api.put("services", service(f"svc{which}", VIPS[which + 6 * (number % 2)], uid=f"s{which}"))
    elif kind == "bookmark":
        await api.bookmark()
    elif kind == "settle":
        await asyncio.sleep(0.01)
    else:
        disturb(api, kind, *values)


async def change_pod(api, kind, values, number):
    pods = {thing["metadata"]["name"]: thing for thing in api.objects["pods"].values()}
    taken = {p["status"]["podIP"] for p in pods.values() if p["status"]["phase"] == "Running"}
    name = f"pod{values[0]}"
    if kind == "pod" and name not in pods and IPS[values[1]] not in taken:
        owner = ("ReplicaSet", f"rs{values[0]}", f"rs-{values[0]}")
        await api.put("pods", pod(name, IPS[values[1]], uid=f"u{number}", owner=owner, start=None))
    elif kind == "done" and name in pods:
        await api.put("pods", {**pods[name], "status": {**pods[name]["status"], "phase": "Succeeded"}})
    elif kind == "gone" and name in pods:
        await api.delete("pods", pods[name]["metadata"]["uid"])


def disturb(api, kind, *values):
    if kind in ("compact", "expire"):
        api.compact()
    if kind in ("cut", "expire"):
        api.cut(*values)
    if kind == "refuse":
        api.refused[""] = 503
    if kind == "allow":
        api.refused.clear()


def said(enricher):
    parts = ("name", "type", "owner_name", "owner_type")
    return {ip: tuple(named(enricher, ip, part) for part in parts) for ip in (*IPS, *VIPS)}


def expected(api):
    found = dict.fromkeys((*IPS, *VIPS), ("", "", "", ""))
    for thing in api.objects["services"].values():
        name = thing["metadata"]["name"]
        found[thing["spec"]["clusterIP"]] = (name, "Service", name, "Service")
    for thing in api.objects["pods"].values():
        if thing["status"]["phase"] == "Running":
            name = thing["metadata"]["name"]
            found[thing["status"]["podIP"]] = (name, "Pod", f"app{name[3:]}", "Deployment")
    return found
