"""Where the server is and who asks, from the files that there may be."""

import base64
import json
import os
import ssl
import subprocess

import pytest

from flowagent.enrich import kube_config
from flowagent.errors import ConfigError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that signed itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", folder / "key", "-out", folder / "cert", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def write(path, cluster, user=None, *, context="c", current="c"):
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": current,
        "clusters": [{"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": context, "context": {"cluster": "k", "user": "u", "namespace": "x"}}],
    }), "utf-8")  # fmt: skip
    return str(path)


def find(kubeconfig=None, environ=None, pod=kube_config._POD):
    return kube_config.find(kubeconfig, environ or {}, "k.kubeconfig", pod)


def test_a_pod_finds_everything_in_its_files(tmp_path):
    (tmp_path / "token").write_text("abc\n")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    access = find(environ=environ, pod=tmp_path)
    assert access.server == "https://[fd00::1]:6443"
    assert access.token() == "abc"
    (tmp_path / "token").write_text("def")
    assert access.token() == "def"
    with pytest.raises(OSError, match=r"ca\.crt"):
        access.stamp()


def test_the_setting_comes_before_the_environment_and_that_before_the_pod(tmp_path):
    one = write(tmp_path / "one", {"server": "http://one/"})
    two = write(tmp_path / "two", {"server": "http://two"})
    environ = {"KUBECONFIG": two, "KUBERNETES_SERVICE_HOST": "three"}
    assert find(one, environ).server == "http://one"
    assert find(None, environ).server == "http://two"
    assert find(None, {"KUBERNETES_SERVICE_HOST": "three"}).server == "https://three:443"
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube" / "config", {"server": "http://home"})
    assert find(None, {"HOME": str(tmp_path)}).server == "http://home"


def test_of_several_files_the_first_that_has_a_name_counts(tmp_path):
    one = write(tmp_path / "one", {"server": "http://one"}, current="other")
    two = write(tmp_path / "two", {"server": "http://two"}, context="other", current="c")
    assert find(None, {"KUBECONFIG": os.pathsep.join([one, two])}).server == "http://one"


def test_files_are_relative_to_the_one_that_names_them(tmp_path):
    (tmp_path / "mine").write_text("abc")
    assert find(write(tmp_path / "c", {"server": "http://h"}, {"tokenFile": "mine"})).token() == "abc"


def test_certificates_in_files_and_in_place(tmp_path, certificate):
    as_data = {name: base64.b64encode((certificate / name).read_bytes()).decode() for name in ("cert", "key")}
    in_place = find(write(tmp_path / "a", {"server": "https://h", "certificate-authority-data": as_data["cert"]},
                          {"client-certificate-data": as_data["cert"], "client-key-data": as_data["key"]}))  # fmt: skip
    in_files = find(write(tmp_path / "b", {"server": "https://h", "certificate-authority": str(certificate / "cert")},
                          {"client-certificate": str(certificate / "cert"),
                           "client-key": str(certificate / "key")}))  # fmt: skip
    for access in (in_place, in_files):
        context = access.tls()
        assert context.cert_store_stats()["x509"] == 1
        assert context.verify_mode == ssl.CERT_REQUIRED
    assert in_place.stamp() == ()
    before = in_files.stamp()
    os.utime(certificate / "cert", ns=(1, 1))
    assert in_files.stamp() != before


def test_a_server_may_go_unchecked(tmp_path):
    context = find(write(tmp_path / "c", {"server": "https://h", "insecure-skip-tls-verify": True})).tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


_CLUSTER = """
current-context: c
contexts: [{name: c, context: {cluster: k}}]
clusters: [{name: k, cluster: {server: 'https://h', %s}}]
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no kubeconfig"),
        ("- 1", "no kubeconfig"),
        ("clusters: 5", "no kubeconfig"),
        ("{}", "no context"),
        ("{current-context: c, contexts: [{name: c, context: {cluster: k}}]}", "no server"),
        (_CLUSTER % "certificate-authority: nowhere", "certificates"),
        (_CLUSTER % "certificate-authority-data: '?'", "certificates"),
    ],
)  # fmt: skip
def test_files_that_are_wrong(tmp_path, text, problem):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as raised:
        find(str(path))
    assert raised.value.path == "k.kubeconfig"


def test_nothing_to_go_by(tmp_path):
    with pytest.raises(ConfigError, match="this is no pod"):
        find(None, {"HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="cannot read"):
        find(str(tmp_path / "nowhere"))


def plugin(tmp_path, script):
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    user = {"exec": {"command": str(program), "args": ["x"], "env": [{"name": "WHO", "value": "me"}]}}
    return find(write(tmp_path / "c", {"server": "http://h"}, user))


async def test_a_plugin_prints_a_token(tmp_path):
    script = """echo '{"status": {"token": "'$WHO-$1'", "expirationTimestamp": "1970-01-01T00:01:40Z"}}'"""
    assert await kube_config.run_plugin(plugin(tmp_path, script)) == ("me-x", 100.0)


async def test_a_plugin_that_prints_something_else(tmp_path):
    with pytest.raises(OSError, match="no credentials"):
        await kube_config.run_plugin(plugin(tmp_path, "echo no"))


async def test_a_plugin_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(kube_config, "_EXEC_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        await kube_config.run_plugin(plugin(tmp_path, "exec sleep 60"))
