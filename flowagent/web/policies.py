"""The API of policies: add them, look at what they say over a window, take their sketches along, remove them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from flowagent.errors import ConfigError
from flowagent.filters import FilterError
from flowagent.web.answers import Problem, answer, read_object

PATH = "/api/v1/policies"
SKETCHES = ("hll", "frequent")
_WINDOW = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_NAMED = {"live": "0", "last": "1"}


class Conflict(ConfigError):
    """A policy is right in itself, but what is there stands against it: the name is taken, or there are too many."""


class Policy(Protocol):
    """What the API needs of a policy; ages of windows are 0 for the one under way, 1 for the last finished one."""

    @property
    def name(self) -> str:
        """Unique."""

    @property
    def windows(self) -> int:
        """How many finished windows there are."""

    def describe(self) -> dict[str, Any]:
        """Settings, windows and memory used, as plain data."""

    def result(self, newest: int, oldest: int) -> dict[str, Any] | None:
        """What windows say together, as plain data; None where one is not there."""

    def sketch(
        self, kind: str, newest: int, oldest: int, of: tuple[str, ...], by: str, group: str | None
    ) -> bytes | None:
        """A sketch of windows, in a format for others; None where a window is not there.

        Raises ConfigError, whose path is the parameter, where there is no such sketch or group.
        """


class Store(Protocol):
    """Where the policies are."""

    def policies(self) -> Mapping[str, Policy]:
        """Those that run, by name."""

    def add_policy(self, entry: dict[str, Any]) -> Policy:
        """Start one, given as in the configuration; raises ConfigError, a Conflict where others stand against it."""

    def remove_policy(self, name: str) -> bool:
        """End one; False where there is none of that name."""


class Policies:
    """The routes, and what they do with the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """For the application's router."""
        one, window = f"{PATH}/{{name}}", f"{PATH}/{{name}}/{{window}}"
        return [
            web.get(PATH, self._list),
            web.post(PATH, self._add),
            web.get(one, self._describe),
            web.delete(one, self._remove),
            web.get(window, self._result),
            web.get(f"{window}/sketches/{{kind}}", self._sketch),
        ]

    async def _list(self, _: web.Request) -> web.Response:
        return answer([policy.describe() for policy in self._store.policies().values()])

    async def _add(self, request: web.Request) -> web.Response:
        entry = await read_object(request)
        try:
            policy = self._store.add_policy(entry)
        except ConfigError as error:
            raise _refused(error, entry) from error
        except RecursionError as error:
            raise Problem(400, "the settings are nested too deeply") from error
        return answer(policy.describe(), 201, {"Location": f"{PATH}/{policy.name}"})

    async def _describe(self, request: web.Request) -> web.Response:
        return answer(self._named(request).describe())

    async def _remove(self, request: web.Request) -> web.Response:
        self._store.remove_policy(self._named(request).name)
        return web.Response(status=204)

    async def _result(self, request: web.Request) -> web.Response:
        policy = self._named(request)
        newest, oldest = ages(request.match_info["window"])
        result = policy.result(newest, oldest)
        if result is None:
            raise _not_there(policy, request)
        return answer(result)

    async def _sketch(self, request: web.Request) -> web.Response:
        policy = self._named(request)
        newest, oldest = ages(request.match_info["window"])
        kind, query = request.match_info["kind"], request.query
        if kind not in SKETCHES:
            raise Problem(404, f"{kind!r} is no kind of sketch; one of: {', '.join(SKETCHES)}")
        if not query.get("of"):
            raise Problem(400, "is missing; name the columns that make a key, such as of=src_addr,dst_addr", "of")
        of = tuple(query["of"].split(","))
        try:
            sketch = policy.sketch(kind, newest, oldest, of, query.get("by", "bytes"), query.get("group"))
        except ConfigError as error:
            raise Problem(404, error.problem, error.path) from error
        if sketch is None:
            raise _not_there(policy, request)
        return web.Response(body=sketch, content_type="application/octet-stream")

    def _named(self, request: web.Request) -> Policy:
        name = request.match_info["name"]
        policies = self._store.policies()
        if name not in policies:
            raise Problem(404, f"there is no policy {name!r}; see {PATH}")
        return policies[name]


def ages(text: str) -> tuple[int, int]:
    """Newest and oldest age of the windows that a text names; raises Problem."""
    match = _WINDOW.fullmatch(_NAMED.get(text, text))
    newest = int(match[1]) if match else 0
    oldest = int(match[2]) if match and match[2] else newest
    if not match or oldest < newest:
        what = "live, last, an age such as 3 (0 is under way, 1 the last finished), or ages from-to such as 1-5"
        raise Problem(400, f"{text!r} is no window; write {what}")
    return newest, oldest


def _not_there(policy: Policy, request: web.Request) -> Problem:
    _, oldest = ages(request.match_info["window"])
    if oldest <= policy.windows:  # so even the one under way is not
        return Problem(404, "there is no window yet; the first begins within a second")
    finished = f", and 1 to {policy.windows}, finished" if policy.windows else "; none is finished yet"
    return Problem(404, f"there is no window {oldest}; there are 0, under way{finished}")


def _refused(error: ConfigError, entry: Mapping[str, Any]) -> Problem:
    """Paths are those in the body: what they begin with in a configuration, the policy's name, is left out."""
    path = error.path.removeprefix(f"{entry.get('name')}.")
    position = error.position if isinstance(error, FilterError) else None
    return Problem(409 if isinstance(error, Conflict) else 400, error.problem, path, position)
