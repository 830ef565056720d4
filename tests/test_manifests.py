"""What a cluster is given: schemas, least rights, and that all parts fit together."""

import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import flowagent
from flowagent.config import parse
from flowagent.pipeline import DRAIN_SECONDS

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
SINGLE = DEPLOY / "daemonset.yaml"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml"))
VERSIONS = "1.28", kubernetes_validate.latest_version()
"""Of Kubernetes: the oldest that the manifests are for, and the newest with a schema here."""
NODE = {"NODE_NAME": "node1"}
OF_OPERATORS = ("PodMonitor", "SecurityContextConstraints")
"""Kinds that Kubernetes itself does not know."""
PODS = ("DaemonSet", "Deployment", "StatefulSet")
ROOTS = {
    ("plain-cni", "agent", "softflowd"): {"NET_RAW"},
    ("ovn-kubernetes", "agent", "state"): {"CHOWN", "FOWNER"},
    ("all", "agent", "state"): {"CHOWN", "FOWNER"},
    ("all", "agent", "flowagent"): {"NET_ADMIN"},
}
"""Containers that run as root (what is deployed, which pod, which container), and the only rights that they have."""
_KUSTOMIZE = "v5.8.1"
_BUILD_SECONDS = 600


def objects_of(text):
    return [each for each in yaml.safe_load_all(text) if each is not None]


@cache
def kustomize():
    """The program; built when it is not in the cache: half a minute, downloads included."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowagent-tests"
    program = cache_home / f"kustomize-{_KUSTOMIZE}"
    if not program.exists():
        built = cache_home / f"kustomize-{os.getpid()}"
        done = subprocess.run(
            ["go", "install", f"sigs.k8s.io/kustomize/kustomize/v5@{_KUSTOMIZE}"],
            env={**os.environ, "GOBIN": str(built)},
            capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (built / "kustomize").replace(program)
        built.rmdir()
    return program


def build(directory):
    done = subprocess.run(
        [kustomize(), "build", directory], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return objects_of(done.stdout)


def build_elsewhere(files):
    """What these files make, as if they lay in a directory of the checkout."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        for file, text in files.items():
            (directory / file).write_text(text.replace("../deploy/", f"{os.path.relpath(DEPLOY, directory)}/"))
        return build(directory)


@cache
def deployed(what):
    """The objects of `single` (the file), an overlay, or `all`: ovn-kubernetes with every component."""
    if what == "single":
        return objects_of(SINGLE.read_text("utf-8"))
    if what != "all":
        return build(KUBERNETES / what)
    more = [name for name in COMPONENTS if name != "host-state"]  # the overlay has that one
    parts = {
        "resources": ["../deploy/kubernetes/ovn-kubernetes"],
        "components": [f"../deploy/kubernetes/components/{name}" for name in more],
    }
    return build_elsewhere({"kustomization.yaml": yaml.safe_dump(parts)})


every = pytest.mark.parametrize(
    "what",
    ["single", *(pytest.param(name, marks=pytest.mark.service("go")) for name in (*OVERLAYS, "all"))],
)


def of_kind(what, *kinds):
    return [each for each in deployed(what) if each["kind"] in kinds]


def pods(what):
    return [each["spec"]["template"] for each in of_kind(what, *PODS)]


def containers(what):
    """Which pod they belong to, themselves, and their rights: what their pod says counts, too."""
    for pod in pods(what):
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            rights = {**pod["spec"]["securityContext"], **container["securityContext"]}
            yield pod["metadata"]["labels"]["app.kubernetes.io/component"], container, rights


def named(what, kind):
    return {each["metadata"]["name"]: each for each in of_kind(what, kind)}


def configs(what):
    for each in of_kind(what, "ConfigMap"):
        yield each["metadata"]["name"], yaml.safe_load(each["data"]["agent.yaml"])


def config_of(what, pod):
    """The configuration that a pod's agent reads."""
    volume = next(v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v)
    return dict(configs(what))[volume]


@every
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_follow_the_schemas_of_kubernetes(what, version):
    known = [each for each in deployed(what) if each["kind"] not in OF_OPERATORS]
    assert known
    for each in known:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_base_is_the_single_file():
    assert (KUBERNETES / "base" / "flowagent.yaml").read_bytes() == SINGLE.read_bytes()


@pytest.mark.service("go")
def test_the_base_builds_to_the_objects_of_the_single_file():
    def sort(objects):
        return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert sort(deployed("base")) == sort(deployed("single"))


@every
def test_roles_only_look(what):
    openshift = "flowagent-scc"  # allows to run as one says, and to look at nothing
    assert {each["metadata"]["name"] for each in of_kind(what, "Role", "RoleBinding")} <= {openshift}
    for role in of_kind(what, "ClusterRole"):
        if role["metadata"]["name"] == openshift:
            continue
        granted = {
            (g, r): set(rule["verbs"]) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"]
        }
        followed, asked_for = {"get", "list", "watch"}, {"get", "list"}
        assert granted == {
            ("", "pods"): followed,
            ("", "services"): followed,
            ("", "nodes"): followed,
            ("apps", "replicasets"): asked_for,
            ("batch", "jobs"): asked_for,
        }


@every
def test_only_who_watches_the_api_server_has_a_token_for_it(what):
    watchers = {s["name"] for each in of_kind(what, "ClusterRoleBinding") for s in each["subjects"]}
    assert len(watchers) <= 1
    assert all(not account["automountServiceAccountToken"] for account in of_kind(what, "ServiceAccount"))
    for pod in pods(what):
        watches = any("mode" in entry for entry in config_of(what, pod).get("enrich", ()))
        assert pod["spec"]["automountServiceAccountToken"] == watches
        assert (pod["spec"]["serviceAccountName"] in watchers) == watches


@every
def test_containers_have_no_rights_but_those_listed(what):
    for component, container, rights in containers(what):
        capabilities = rights["capabilities"]
        if allowed := ROOTS.get((what, component, container["name"])):
            assert set(capabilities["add"]) == allowed
            assert rights["runAsUser"] == 0
        else:
            assert "add" not in capabilities
            assert rights["runAsNonRoot"] is True
            assert rights["runAsUser"] > 0
        assert capabilities["drop"] == ["ALL"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not rights.get("privileged")


@every
def test_pods_share_nothing_of_the_host_but_its_network(what):
    for pod in pods(what):
        spec = pod["spec"]
        assert not {"hostPID", "hostIPC"} & spec.keys()
        paths = [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume]
        assert paths in ([], ["/var/lib/flowagent"])
        if spec.get("hostNetwork"):
            assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    level = of_kind(what, "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == ("restricted" if what in ("standalone", "central") else "privileged")


@every
def test_containers_have_requests_and_a_limit_of_memory(what):
    for _, container, _ in containers(what):
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}


@every
def test_agents_are_probed_and_have_time_to_drain(what):
    for pod in pods(what):
        assert pod["spec"]["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + 5
        agent = next(c for c in pod["spec"]["containers"] if c["name"] == "flowagent")
        assert agent["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        ready = "/healthz" if what == "standalone" else "/readyz"
        assert agent["readinessProbe"]["httpGet"] == {"path": ready, "port": "http"}


@every
def test_agents_are_on_every_node_and_replaced_a_few_at_a_time(what):
    for each in of_kind(what, "DaemonSet"):
        assert each["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
        assert each["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%", "maxSurge": 0}


@every
def test_configurations_are_valid(what):
    assert list(configs(what))
    for _, raw in configs(what):
        config = parse(raw, NODE)
        assert config.http.token_file, "open to others, so guarded"
        assert config.state.path == "/var/lib/flowagent"


@every
def test_agents_listen_where_the_manifests_say(what):
    for pod in pods(what):
        raw = config_of(what, pod)
        listen = raw["ingest"][0].get("listen", [])
        listen = [listen] if isinstance(listen, str) else listen
        udp = {int(text.rpartition(":")[2]) for text in listen if not text.startswith("127.")}
        agent = next(c for c in pod["spec"]["containers"] if c["name"] == "flowagent")
        assert {p["containerPort"] for p in agent["ports"] if p.get("protocol") == "UDP"} == udp
        (http,) = (p["containerPort"] for p in agent["ports"] if p["name"] == "http")
        assert raw["http"]["listen"] == f"0.0.0.0:{http}", "of [::] HTTP would take IPv6 only"
        annotations = pod["metadata"].get("annotations", {})
        assert annotations.get("prometheus.io/port", str(http)) == str(http)


@every
def test_what_pods_name_is_there(what):
    for pod in pods(what):
        spec = pod["spec"]
        assert spec["serviceAccountName"] in named(what, "ServiceAccount")
        assert spec["priorityClassName"] in named(what, "PriorityClass")
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in named(what, "ConfigMap")
            if "secret" in volume:
                assert volume["secret"]["secretName"] in named(what, "Secret")
        claims = [
            c["metadata"]["name"] for s in of_kind(what, "StatefulSet") for c in s["spec"]["volumeClaimTemplates"]
        ]
        volumes = {volume["name"] for volume in spec["volumes"]} | set(claims)
        mounted = {m["name"]: m["mountPath"] for c in spec["containers"] for m in c.get("volumeMounts", ())}
        assert mounted.keys() == volumes
        assert config_of(what, pod)["state"]["path"] == mounted["state"]
        assert Path(config_of(what, pod)["http"]["token_file"]).parent == Path(mounted["http"])


@every
def test_services_find_pods(what):
    for service in of_kind(what, "Service"):
        selector = service["spec"]["selector"].items()
        found = [pod for pod in pods(what) if selector <= pod["metadata"]["labels"].items()]
        assert len(found) == 1
        ports = {port["name"] for c in found[0]["spec"]["containers"] for port in c.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@every
def test_everything_has_its_namespace(what):
    bare = ("Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "SecurityContextConstraints")
    assert {each["metadata"].get("namespace") for each in deployed(what) if each["kind"] not in bare} == {"flowagent"}


@every
def test_the_image_is_that_of_this_version(what):
    images = {container["image"] for _, container, _ in containers(what)} - {"softflowd:1.1.0"}
    assert images == {f"flowagent:{flowagent.__version__}"}


@every
def test_the_http_token_opens_nothing_of_the_cluster(what):
    secret = named(what, "Secret")["flowagent-http"]
    account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    assert secret["type"] == "kubernetes.io/service-account-token"
    assert "data" not in secret
    assert account in named(what, "ServiceAccount")
    assert account not in {s["name"] for each in of_kind(what, "ClusterRoleBinding") for s in each["subjects"]}
    assert account not in {pod["spec"]["serviceAccountName"] for pod in pods(what)}


@pytest.mark.service("go")
@pytest.mark.parametrize("what", ["large", "all"])
def test_agents_of_a_large_cluster_ask_the_cache(what):
    raws = dict(configs(what))
    (enrich,) = raws["flowagent"]["enrich"]
    host, port, path = re.fullmatch(r"http://([\w.-]+):(\d+)(/.+)", enrich["snapshot_url"]).groups()
    service = named(what, "Service")[host.split(".")[0]]
    assert host.split(".")[1:] == ["flowagent", "svc"]
    assert [p["port"] for p in service["spec"]["ports"]] == [int(port)]
    assert path == "/api/v1/kubernetes/snapshot"
    assert raws["flowagent-cache"]["enrich"] == [{"type": "kubernetes", "mode": "full"}]
    base = dict(configs("base"))["flowagent"]
    assert {**base, "enrich": 0} == {**raws["flowagent"], "enrich": 0}


def test_openshift_allows_the_agent_what_it_asks_for_and_no_more():
    parts = yaml.safe_load_all((KUBERNETES / "components/openshift/scc.yaml").read_text("utf-8"))
    allowed, role, binding = parts
    (pod,) = (each["spec"]["template"]["spec"] for each in of_kind("single", "DaemonSet"))
    (container,) = pod["containers"]
    asked = {**pod["securityContext"], **container["securityContext"]}
    assert allowed["runAsUser"] == {"type": "MustRunAs", "uid": asked["runAsUser"]}
    assert allowed["fsGroup"]["ranges"] == [{"min": asked["fsGroup"], "max": asked["fsGroup"]}]
    assert allowed["allowHostNetwork"] is pod["hostNetwork"]
    assert allowed["readOnlyRootFilesystem"] is asked["readOnlyRootFilesystem"]
    assert allowed["requiredDropCapabilities"] == asked["capabilities"]["drop"]
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds | {"projected"} == set(allowed["volumes"])  # the last is the token of the service account
    assert {name for name, value in allowed.items() if value is True} == {
        "allowHostNetwork", "allowHostPorts", "readOnlyRootFilesystem"
    }  # fmt: skip
    assert role["rules"][0]["resourceNames"] == [allowed["metadata"]["name"]]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == pod["serviceAccountName"]


@pytest.mark.service("go")
@pytest.mark.parametrize("what", ["prometheus-operator", "all"])
def test_the_pod_monitor_finds_agents_and_their_token(what):
    (monitor,) = of_kind(what, "PodMonitor")
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    assert all(selector <= pod["metadata"]["labels"].items() for pod in pods(what))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["authorization"]["credentials"]["name"] in named(what, "Secret")
    agents = next(pod for pod in pods(what) if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "agent")
    assert "annotations" not in agents["metadata"]


@pytest.mark.service("go")
def test_an_overlay_as_documented_builds():
    """Its configuration takes the place of the base's."""
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(# mine/kustomization\.yaml\n.*?)```", page, re.DOTALL)
    objects = build_elsewhere({"kustomization.yaml": text, "agent.yaml": "ingest: [{type: udp}]\n"})
    (config,) = (each for each in objects if each["kind"] == "ConfigMap")
    assert config["data"] == {"agent.yaml": "ingest: [{type: udp}]\n"}
    (pod,) = (each["spec"]["template"]["spec"] for each in objects if each["kind"] == "DaemonSet")
    assert {"name": "config", "configMap": {"name": config["metadata"]["name"]}} in pod["volumes"]
    assert {c["image"] for c in pod["containers"]} == {f"registry.example/flowagent:{flowagent.__version__}"}


def test_every_overlay_is_documented():
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    assert {f"kubernetes/{name}" for name in OVERLAYS if name != "base"} <= set(re.findall(r"kubernetes/[\w-]+", page))
    assert {f"components/{name}" for name in COMPONENTS} <= set(re.findall(r"components/[\w-]+", page))


def test_documented_places_are_there():
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    places = set(re.findall(r"(?<![\w./])deploy/[\w./-]+\w", page))
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []
