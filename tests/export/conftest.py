"""What tests of sinks share."""

import pytest
from answering import Answering


@pytest.fixture
async def serve():
    """Start HTTP servers that answer as they are told (arguments: see Answering)."""
    servers = []

    async def start(*script, **settings):
        servers.append(Answering(*script, **settings))
        return await servers[-1].start()

    yield start
    for server in servers:
        await server.stop()
