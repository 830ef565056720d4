"""What the API reads and answers: JSON, and errors in one format.

An error is an object: `error` says what is wrong and what would be right; where
it is about one setting or parameter `path` names that, and `position` is the
offset of the wrong character in it (in the body, where there is no `path`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import msgspec
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """A request cannot be served: the status and the fields of the error object."""

    def __init__(self, status: int, error: str, path: str = "", position: int | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.fields: dict[str, Any] = {"error": error}
        if path:
            self.fields["path"] = path
        if position is not None:
            self.fields["position"] = position


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Plain data as JSON; null stands for numbers that are none."""
    body = msgspec.json.encode(data)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body; raises Problem.

    Only `application/json` will do: what a page of another site may send
    without asking the agent first are other types.
    """
    if request.content_type != "application/json":
        raise Problem(415, f"send JSON as Content-Type: application/json, not {request.content_type}")
    try:
        body = await request.read()
    except web.RequestPayloadError as error:
        raise Problem(400, f"the body cannot be read: {error}") from error
    value = _parsed(body)
    if not isinstance(value, dict):
        raise Problem(400, f"the body is a {type(value).__name__}; it must be an object of settings")
    return value


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Problem(400, "the body is not UTF-8 text", position=error.start) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        what = f"the body is not JSON: {error.msg[0].lower()}{error.msg[1:]} in {where}"
        raise Problem(400, what, position=error.pos) from error
    except RecursionError as error:
        raise Problem(400, "the body is nested too deeply") from error
    except ValueError as error:
        raise Problem(400, "the body has a number of too many digits") from error


def _no_number(text: str) -> NoReturn:
    raise Problem(400, f"the body is not JSON: it has {text}")


def one_format(log: logging.Logger) -> Any:
    """The middleware that answers for what goes wrong: with error objects below /api/. It answers OPTIONS, too."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return answer(problem.fields, problem.status)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))
            if request.method == "OPTIONS":  # without a word on other origins: they may do nothing here
                return web.Response(status=204, headers={"Allow": allowed})
            return _refusal(request, error, f"there is no {request.method} here; allowed: {allowed}", allowed)
        except web.HTTPNotFound as error:
            return _refusal(request, error, f"there is nothing at {request.path}; see /api/v1/openapi.json")
        except web.HTTPException as error:
            return _refusal(request, error, error.text or error.reason)
        except ConnectionError:
            raise  # the client is gone
        except Exception as error:
            log.exception("could not answer %s %s", request.method, request.raw_path)
            return _refusal(request, web.HTTPInternalServerError(), f"{type(error).__name__}; the log tells more")

    return middleware


def _refusal(request: web.Request, error: web.HTTPException, text: str, allowed: str | None = None) -> web.Response:
    """An error of the server itself: an object below /api/, else a line of text."""
    kept = {name: error.headers[name] for name in ("WWW-Authenticate",) if name in error.headers}
    headers = kept | ({"Allow": allowed} if allowed else {})
    text = text.strip()
    if request.path.startswith("/api/"):
        return answer({"error": text}, error.status, headers)
    return web.Response(text=f"{text}\n", status=error.status, headers=headers)
