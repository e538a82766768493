"""The Redis client against a real server that stops answering."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.storage.client import connect
from service.storage.embedded_valkey.server import EmbeddedValkey


async def test_a_silent_server_is_asked_once(valkey: EmbeddedValkey) -> None:
    """Also where a new connection must be made first, which the silent server's socket accepts."""
    client = connect(f"{valkey.url}?socket_timeout=0.2")
    async with aclosing(client):
        await client.ping()
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                async with asyncio.timeout(1.0):  # six tries take 1.5 s
                    with pytest.raises((RedisConnectionError, RedisTimeoutError), match="Timeout"):
                        await client.get("key")
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
