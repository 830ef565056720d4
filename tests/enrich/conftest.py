"""What tests of the Kubernetes enricher share."""

import pytest
from kube_api import KubeApi

from flowagent.enrich import kube_owners, kube_watch, kubernetes


@pytest.fixture
def quick(monkeypatch):
    """No long pauses."""
    monkeypatch.setattr(kubernetes, "_APART_SECONDS", 0.01)
    monkeypatch.setattr(kube_watch, "_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(kube_watch, "_MOST_SECONDS", 0.05)
    monkeypatch.setattr(kube_owners, "_APART_SECONDS", 0.0)


@pytest.fixture
async def api():
    """A server without objects."""
    server = await KubeApi().start()
    yield server
    await server.stop()
