"""Kafka's brokers: where they are, what they want to know of a client, and why they cannot be talked to."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, Protocol

from aiokafka.abc import AbstractTokenProvider  # type: ignore[import-untyped]
from aiokafka.conn import create_conn  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    BrokerResponseError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from flowagent.component import Context, Settings
from flowagent.errors import ConfigError
from flowagent.secret import secret
from flowagent.tls import ClientTls

PORT = 9092
_LOCAL = ("localhost", "127.0.0.1", "::1")
_CREDENTIALS = (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)
_CLOSE_SECONDS = 1.0


class Sasl(Settings, frozen=True):
    """Credentials."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    """How they are shown."""
    username: str | None = None
    """Not with OAUTHBEARER."""
    password_file: str | None = None
    """File with the password; read again for every connection after a failure."""
    token_file: str | None = None
    """File with a token, for OAUTHBEARER; read again for every connection."""

    def check(self, path: str) -> None:
        """Raise ConfigError where something is missing, has no use, or cannot be read."""
        wanted = ("token_file",) if self.mechanism == "OAUTHBEARER" else ("username", "password_file")
        for name in ("username", "password_file", "token_file"):
            value = getattr(self, name)
            if name in wanted and not value:
                raise ConfigError(f"{path}.{name}", f"is missing; {self.mechanism} needs it")
            if name not in wanted and value is not None:
                raise ConfigError(f"{path}.{name}", f"has no use with {self.mechanism}; leave it out")
            if name in wanted and name.endswith("_file"):
                try:
                    secret(value)
                except OSError as error:
                    raise ConfigError(f"{path}.{name}", f"{error}; write the secret into it") from error


class Reaching(Protocol):
    """What the Config of a client of Kafka says: a source's as a sink's."""

    @property
    def brokers(self) -> tuple[str, ...]:
        """Some of the cluster's brokers, `host:port`; they tell the others."""

    @property
    def client_id(self) -> str:
        """What brokers call this client in their logs, metrics and quotas."""

    @property
    def tls(self) -> ClientTls | None:
        """None for no TLS."""

    @property
    def sasl(self) -> Sasl | None:
        """None for no credentials."""


class Broker(NamedTuple):
    """Where one listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Brokers:
    """The brokers that are configured, and how to connect to them; building it raises ConfigError."""

    def __init__(self, settings: Reaching, ctx: Context) -> None:
        self.all = tuple(_broker(text, f"{ctx.name}.brokers[{i}]") for i, text in enumerate(settings.brokers))
        if not self.all:
            raise ConfigError(f"{ctx.name}.brokers", "is empty; name one at least, such as localhost:9092")
        self._client_id = settings.client_id
        self._sasl = settings.sasl
        self._ssl: ssl.SSLContext | None = None
        if settings.tls is not None:
            if settings.tls.server_name is not None:
                path = f"{ctx.name}.tls.server_name"
                raise ConfigError(path, "has no use with Kafka, whose brokers each have a name; leave it out")
            self._ssl = settings.tls.context(f"{ctx.name}.tls")
        if settings.sasl is not None:
            settings.sasl.check(f"{ctx.name}.sasl")

    def __str__(self) -> str:
        return ", ".join(map(str, self.all))

    @property
    def show_credentials(self) -> bool:
        """Whether somebody between could read a password or token."""
        is_readable = self._sasl is not None and not self._sasl.mechanism.startswith("SCRAM")
        return is_readable and self._ssl is None and any(broker.host not in _LOCAL for broker in self.all)

    def connection(self, timeout: float) -> dict[str, Any]:
        """What aiokafka wants to know of a connection; `timeout` is for each request. OSError: a secret is missing."""
        settings: dict[str, Any] = {
            "client_id": self._client_id,
            "request_timeout_ms": max(1, round(timeout * 1000)),
            "security_protocol": "PLAINTEXT" if self._ssl is None else "SSL",
            "ssl_context": self._ssl,
        }
        if self._sasl is None:
            return settings
        settings["security_protocol"] = "SASL_PLAINTEXT" if self._ssl is None else "SASL_SSL"
        settings["sasl_mechanism"] = self._sasl.mechanism
        if self._sasl.token_file is not None:
            settings["sasl_oauth_token_provider"] = _TokenFile(self._sasl.token_file)
        if self._sasl.password_file is not None:
            settings["sasl_plain_username"] = self._sasl.username
            settings["sasl_plain_password"] = secret(self._sasl.password_file)
        return settings

    async def problem(self, seconds: float, others: Sequence[Broker] = ()) -> str | None:
        """Why none of the brokers can be talked to; None where one can, and all of the `others`, too."""
        found = [await self._try(broker, seconds / len(self.all)) for broker in self.all]
        if all(found):
            return "; ".join(filter(None, found))
        for broker in others:
            wrong = await self._try(broker, seconds / len(others))
            if wrong is not None:
                return f"{wrong} (so the other brokers call it)"
        return None

    async def _try(self, broker: Broker, seconds: float) -> str | None:
        """Connect to see what is wrong."""
        mechanism = self._sasl.mechanism if self._sasl is not None else "no mechanism"
        try:
            async with asyncio.timeout(seconds):
                connection = await create_conn(broker.host, broker.port, **self.connection(seconds))
        except TimeoutError:
            return f"{broker} does not answer within {seconds:g} s"
        except _CREDENTIALS as error:
            return f"{broker} refuses the credentials with {mechanism}: {describe(error)}"
        except (KafkaConnectionError, ConnectionResetError):
            hint = "does it expect TLS?" if self._ssl is None else "does it speak TLS?"
            return f"{broker} closes the connection; {hint}"
        except (KafkaError, OSError) as error:
            return f"cannot connect to {broker}: {describe(error)}"
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await connection.close()
        return None


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """The token in a file, as it is when a connection is made."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def token(self) -> str:
        return secret(self._path)


def describe(error: BaseException) -> str:
    """An error of aiokafka or the system, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "reason", None) or error)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, OSError):
        return str(error.strerror or error) or type(error).__name__
    words = "; ".join(arg for arg in error.args if isinstance(arg, str))
    if isinstance(error, BrokerResponseError):
        return words or str(error.message).replace("_", " ").lower()
    return words or type(error).__name__


def _broker(text: str, path: str) -> Broker:
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        host, port = text, str(PORT)
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or "/" in bare or not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ConfigError(path, f"{text!r} is not a broker; write host:port, such as kafka-1.example.net:9092")
    return Broker(bare, int(port))
