"""An API server on a loopback port: lists in pages, watches, bookmarks, versions that are too old, broken lines."""

import asyncio
import itertools
import json
from typing import Self

from aiohttp import web

KINDS = {
    "pods": ("v1", "Pod"), "services": ("v1", "Service"), "nodes": ("v1", "Node"),
    "replicasets": ("apps/v1", "ReplicaSet"), "jobs": ("batch/v1", "Job"),
}  # fmt: skip
START = "2024-05-01T10:00:00Z"


class KubeApi:
    """Holds objects; `put` and `delete` are changes that watches tell."""

    def __init__(self, *, max_page=1000, token=""):
        self.objects = {kind: {} for kind in KINDS}
        self.log = []
        """(version, kind, type, object), in that order."""
        self.version = 100
        self.oldest = 0
        """Watches from an older version are refused, and lists that began before it cannot go on."""
        self.requests = []
        """(path, query) of each, in their order."""
        self.refused = {}
        """Status to answer with, by kind; `""` for every kind."""
        self.error_events = False
        """Whether 410 is said in an ERROR event instead of the status."""
        self.max_page = max_page
        self.token = token
        self._pages = {}
        self._watching = set()
        self._news = asyncio.Condition()
        self._runner = None
        self.port = 0

    async def start(self) -> Self:
        app = web.Application()
        for base, kinds in (("/api/v1", ("pods", "services", "nodes")), ("/apis/apps/v1", ("replicasets",)),
                            ("/apis/batch/v1", ("jobs",))):  # fmt: skip
            for kind in kinds:
                app.router.add_get(f"{base}/{kind}", self._handler(kind, self._list_or_watch))
                app.router.add_get(f"{base}/namespaces/{{ns}}/{kind}/{{name}}", self._handler(kind, self._get))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self):
        self.cut()
        await self._runner.cleanup()

    def kubeconfig(self, folder, **user):
        """A file for this server."""
        file = {
            "current-context": "test",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(file), "utf-8")
        return str(path)

    async def put(self, kind, thing):
        uid = thing["metadata"]["uid"]
        await self._tell(kind, "MODIFIED" if uid in self.objects[kind] else "ADDED", thing)
        self.objects[kind][uid] = self.log[-1][3]

    async def delete(self, kind, uid):
        await self._tell(kind, "DELETED", self.objects[kind].pop(uid))

    async def bookmark(self):
        for kind in KINDS:
            await self._tell(kind, "BOOKMARK", {"metadata": {"resourceVersion": "", "creationTimestamp": None}})

    def compact(self):
        """Forget the past."""
        self.version += 1
        self.oldest = self.version

    def cut(self, beginning=b""):
        """Break all watches, after the beginning of a line."""
        for response, transport in list(self._watching):
            if beginning and response.prepared:
                transport.write(b"%x\r\n%s" % (len(beginning) + 10, beginning))
            transport.close()
        self._watching.clear()

    @property
    def watches(self):
        return len(self._watching)

    async def _tell(self, kind, type_, thing):
        self.version += 1
        thing = json.loads(json.dumps(thing))
        thing["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, kind, type_, thing))
        async with self._news:
            self._news.notify_all()

    def _handler(self, kind, handle):
        async def answer(request):
            self.requests.append((request.path, dict(request.query)))
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                return _status(401, "Unauthorized")
            code = self.refused.get(kind) or self.refused.get("")
            if code:
                return _status(code, "refused", {"Retry-After": "0"} if code == 429 else {})
            return await handle(kind, request)

        return answer

    async def _list_or_watch(self, kind, request):
        if request.query.get("watch") in ("1", "true"):
            return await self._watch(kind, request)
        if token := request.query.get("continue"):
            version, _, start = token.partition(":")
            if int(version) < self.oldest:
                return _status(410, "The provided continue parameter is too old")
            items, start = self._pages[kind, int(version)], int(start)
        else:
            version, start = self.version, 0
            items = [thing for thing in self.objects[kind].values() if _selected(thing, request)]
            self._pages[kind, version] = items
        stop = start + min(int(request.query.get("limit", "0")) or 10**6, self.max_page)
        meta = {"resourceVersion": str(version)}
        if stop < len(items):
            meta["continue"] = f"{version}:{stop}"
        page = [_shown(thing, request) for thing in items[start:stop]]
        # As in Go, an empty list may be null.
        return web.json_response({"kind": "List", "metadata": meta, "items": page or None})

    async def _get(self, kind, request):
        for thing in self.objects[kind].values():
            meta = thing["metadata"]
            if (meta["namespace"], meta["name"]) == (request.match_info["ns"], request.match_info["name"]):
                return web.json_response(_shown(thing, request))
        return _status(404, "not found")

    async def _watch(self, kind, request):
        version = int(request.query["resourceVersion"])
        if version < self.oldest and not self.error_events:
            return _status(410, "too old resource version")
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        if version < self.oldest:
            error = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(_line("ERROR", error))
            return response
        entry = (response, request.transport)
        self._watching.add(entry)
        try:
            await self._send(kind, request, response, version, entry)
        except (ConnectionError, RuntimeError):
            pass
        finally:
            self._watching.discard(entry)
        return response

    async def _send(self, kind, request, response, version, entry):
        bookmarks = request.query.get("allowWatchBookmarks") == "true"
        place = next((i for i, event in enumerate(self.log) if event[0] > version), len(self.log))
        while entry in self._watching:
            for _, of_kind, type_, thing in itertools.islice(self.log, place, None):
                place += 1
                is_wanted = bookmarks if type_ == "BOOKMARK" else _selected(thing, request)
                if of_kind == kind and is_wanted:
                    await response.write(_line(type_, thing))
            async with self._news:
                if place == len(self.log):
                    await self._news.wait()


def _line(type_, thing):
    return json.dumps({"type": type_, "object": thing}).encode() + b"\n"


def _status(code, message, headers=None):
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code, headers=headers)


def _selected(thing, request):
    name, _, value = request.query.get("fieldSelector", "").partition("=")
    return not name or thing.get("spec", {}).get(name.removeprefix("spec.")) == value


def _shown(thing, request):
    """Only the metadata, where that is asked for."""
    if "PartialObjectMetadata" not in request.headers.get("Accept", ""):
        return thing
    return {"kind": "PartialObjectMetadata", "metadata": thing["metadata"]}


def pod(name, ip="", *, namespace="shop", uid="", node="node-a", host="192.0.2.1", owner=None, phase="Running",
        start=START, host_network=False, networks=None, finished=None):  # fmt: skip
    """A pod; `owner` is (kind, name, uid), `networks` what the CNI says of its networks."""
    ips = ip.split(",") if ip else []
    meta = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "creationTimestamp": start,
            "labels": {"app": name}, "annotations": {"other": "x" * 100}}  # fmt: skip
    if owner:
        kind, owner_name, owner_uid = owner
        meta["ownerReferences"] = [{"apiVersion": "v1", "kind": kind, "name": owner_name, "uid": owner_uid,
                                    "controller": True}]  # fmt: skip
    if networks:
        meta["annotations"]["k8s.v1.cni.cncf.io/network-status"] = json.dumps(networks)
    status = {"phase": phase, "hostIP": host, "podIP": ips[0] if ips else "", "podIPs": [{"ip": one} for one in ips]}
    if start:
        status["startTime"] = start
    if finished:
        status["containerStatuses"] = [{"name": "c", "state": {"terminated": {"exitCode": 0, "finishedAt": finished}}}]
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
    if host_network:
        spec["hostNetwork"] = True
    return {"metadata": meta, "spec": spec, "status": status}


def service(name, *ips, namespace="shop", uid="", external=(), balancer=()):
    """A service; without addresses it is headless."""
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "creationTimestamp": START},
        "spec": {"clusterIP": ips[0] if ips else "None", "clusterIPs": list(ips) or ["None"],
                 "externalIPs": list(external) or None},
        "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in balancer]}},
    }  # fmt: skip


def node(name, ip, *, zone="", external="", subnets=(), annotations=None):
    """A node."""
    addresses = [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]
    if external:
        addresses.append({"type": "ExternalIP", "address": external})
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": START, "labels": labels,
                     "annotations": annotations or {}},
        "spec": {"podCIDRs": list(subnets)},
        "status": {"addresses": addresses},
    }  # fmt: skip


def owned(name, uid, owner=None, namespace="shop"):
    """A ReplicaSet or Job."""
    return pod(name, namespace=namespace, uid=uid, owner=owner)
