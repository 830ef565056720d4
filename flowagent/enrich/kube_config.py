"""Where the API server is and who asks: from a kubeconfig file, or from what every pod finds in its files."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from flowagent.errors import ConfigError

_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXEC_SECONDS = 30.0


class _Exec(Struct, frozen=True):
    command: str
    args: list[str] | None = None
    env: list[dict[str, str]] | None = None
    version: str = field(name="apiVersion", default="client.authentication.k8s.io/v1")


class _Cluster(Struct, frozen=True):
    server: str = ""
    ca: str = field(name="certificate-authority", default="")
    ca_data: str = field(name="certificate-authority-data", default="")
    insecure: bool = field(name="insecure-skip-tls-verify", default=False)
    server_name: str = field(name="tls-server-name", default="")


class _User(Struct, frozen=True):
    token: str = ""
    token_file: str = field(name="tokenFile", default="")
    cert: str = field(name="client-certificate", default="")
    cert_data: str = field(name="client-certificate-data", default="")
    key: str = field(name="client-key", default="")
    key_data: str = field(name="client-key-data", default="")
    exec: _Exec | None = None


class _Links(Struct, frozen=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(Struct):
    name: str
    cluster: _Cluster


class _NamedUser(Struct):
    name: str
    user: _User


class _NamedContext(Struct):
    name: str
    context: _Links


class _File(Struct):
    current: str = field(name="current-context", default="")
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


class Access(NamedTuple):
    """An API server, and the credentials for it."""

    cluster: _Cluster
    user: _User
    folder: Path
    """What file names are relative to."""

    @property
    def server(self) -> str:
        """Its URL."""
        return self.cluster.server.rstrip("/")

    def file(self, name: str) -> Path:
        """The path of a file that is named."""
        return self.folder / Path(name).expanduser()

    def stamp(self) -> tuple[int, ...]:
        """Differs when a file that `tls` reads has changed; OSError where one is not there."""
        files = [name for name in (self.cluster.ca, self.user.cert, self.user.key) if name]
        return tuple(self.file(name).stat().st_mtime_ns for name in files)

    def tls(self) -> ssl.SSLContext:
        """What the `ssl` module needs to know; raises OSError, of which ssl.SSLError is one, or ValueError."""
        authority = base64.b64decode(self.cluster.ca_data, validate=True).decode() or None
        cafile = str(self.file(self.cluster.ca)) if self.cluster.ca and not authority else None
        context = ssl.create_default_context(cafile=cafile, cadata=authority)
        # Certificates of clusters often lack extensions that newer versions of Python insist on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.cluster.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        user = self.user
        if user.cert or user.cert_data:
            with tempfile.TemporaryDirectory() as folder:
                cert = self._written(user.cert, user.cert_data, Path(folder) / "cert")
                key = (
                    self._written(user.key, user.key_data, Path(folder) / "key") if user.key or user.key_data else None
                )
                context.load_cert_chain(cert, key, password=lambda: b"")
        return context

    def _written(self, name: str, data: str, path: Path) -> Path:
        """The file of that name, or a file with this data: `ssl` takes certificates of clients from files only."""
        if not data:
            return self.file(name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(base64.b64decode(data, validate=True))
        return path

    def token(self) -> str:
        """The token to show as it is now, since it changes by the hour; empty for none. Raises OSError."""
        if self.user.token_file:
            return self.file(self.user.token_file).read_text("ascii").strip()
        return self.user.token


def of_url(server: str, ca: str, token_file: str) -> Access:
    """Access to any other server."""
    return Access(_Cluster(server, ca), _User(token_file=token_file), Path.cwd())


def find(kubeconfig: str | None, environ: Mapping[str, str], path: str, pod: Path = _POD) -> Access:
    """From the named file, else those of $KUBECONFIG, else as a pod, else ~/.kube/config; raises ConfigError."""
    if kubeconfig is not None:
        return _read([kubeconfig], path)
    if environ.get("KUBECONFIG"):
        return _read(environ["KUBECONFIG"].split(os.pathsep), path)
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host:
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return Access(_Cluster(server, str(pod / "ca.crt")), _User(token_file=str(pod / "token")), pod)
    usual = Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config"
    if usual.exists():
        return _read([str(usual)], path)
    raise ConfigError(path, "is not set, and this is no pod; name a kubeconfig file, or set snapshot_url")


def _read(names: list[str], path: str) -> Access:
    """Of several files the first that has a name counts."""
    merged: dict[str, dict[str, Any]] = {"clusters": {}, "users": {}, "contexts": {}}
    folders: dict[str, Path] = {}
    current = ""
    for name in filter(None, names):
        file = _load(Path(name).expanduser(), path)
        current = current or file.current
        for one in file.clusters or ():
            merged["clusters"].setdefault(one.name, one.cluster)
            folders.setdefault(one.name, Path(name).expanduser().absolute().parent)
        for user in file.users or ():
            merged["users"].setdefault(user.name, user.user)
        for context in file.contexts or ():
            merged["contexts"].setdefault(context.name, context.context)
    links = merged["contexts"].get(current)
    if links is None:
        raise ConfigError(path, f"{names[0]} has no context {current!r}; set current-context to one that is there")
    cluster = merged["clusters"].get(links.cluster)
    if cluster is None or not cluster.server.startswith(("http://", "https://")):
        raise ConfigError(path, f"{names[0]} says no server for the context {current!r}; add it under clusters")
    access = Access(cluster, merged["users"].get(links.user, _User()), folders[links.cluster])
    try:
        access.tls()
    except (OSError, ValueError) as error:
        raise ConfigError(path, f"{names[0]}: cannot use its certificates: {error}; mend or replace them") from error
    return access


def _load(name: Path, path: str) -> _File:
    try:
        return msgspec.yaml.decode(name.read_bytes(), type=_File)
    except OSError as error:
        raise ConfigError(path, f"cannot read {name}: {error.strerror}; name a kubeconfig file") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(path, f"{name} is no kubeconfig: {error}") from error


class _Credential(Struct):
    token: str = ""
    expires: datetime | None = field(name="expirationTimestamp", default=None)


class _Credentials(Struct):
    status: _Credential


async def run_plugin(access: Access) -> tuple[str, float]:
    """The token that the user's `exec` plugin prints, and when it ends (seconds since 1970); raises OSError."""
    plugin = access.user.exec
    assert plugin is not None
    told = {"apiVersion": plugin.version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environ = {**os.environ, "KUBERNETES_EXEC_INFO": msgspec.json.encode(told).decode()}
    environ |= {pair.get("name", ""): pair.get("value", "") for pair in plugin.env or ()}
    process = await asyncio.create_subprocess_exec(
        plugin.command, *(plugin.args or ()), env=environ,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_EXEC_SECONDS):
            said, _ = await process.communicate()
        found = msgspec.json.decode(said, type=_Credentials).status
    except msgspec.MsgspecError as error:
        raise OSError(f"{plugin.command} prints no credentials") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return found.token, found.expires.timestamp() if found.expires else float("inf")
