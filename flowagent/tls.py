"""TLS of whoever connects to a server: whom to trust, and who they are themselves."""

from __future__ import annotations

import ssl

from flowagent.component import Settings
from flowagent.errors import ConfigError


class ClientTls(Settings, frozen=True):
    """Without any setting: TLS with the system's CAs."""

    ca: str | None = None
    """File with the certificates to trust; default: the system's."""
    cert: str | None = None
    """File with a certificate to show the server, and those between it and its CA."""
    key: str | None = None
    """File with the key of `cert`; default: it is in the same file. Not encrypted."""
    server_name: str | None = None
    """Name that the server's certificate must have; default: the host that is connected to."""
    verify: bool = True
    """False trusts any server, and so anybody in between."""

    def context(self, path: str) -> ssl.SSLContext:
        """What the `ssl` module needs to know; reads the files. Raises ConfigError below `path`."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # SSLError is one
            raise ConfigError(f"{path}.ca", f"cannot use {self.ca}: {_reason(error)}; name a file of PEM") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is None:
            if self.key is not None:
                raise ConfigError(f"{path}.key", "has no use without cert; name the certificate, too")
            return context
        try:
            # A password is never asked for: there is nobody to answer.
            context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except OSError as error:
            problem = f"cannot use {self.cert} with {self.key or 'the key in it'}: {_reason(error)}"
            raise ConfigError(f"{path}.cert", f"{problem}; name files of PEM that belong together") from error
        return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
