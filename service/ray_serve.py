"""Atelier on Ray Serve: an ingress without a model, and replicas that each hold one.

`serve run service.ray_serve:app`, or `atelier ray`. The ingress hands a request whole to a replica, which
runs the same app as `atelier serve`, with its queue and its batches inside, and passes on what the replica
answers as it comes. A request whose replica dies before it has answered is given to another one.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from prometheus_client import start_http_server
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayError, TaskCancelledError
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message

from service.errors import NotReady, ServiceError
from service.settings import Settings, prepare_torch, read_settings
from service.storage.client import connect
from service.storage.replica_registry import ANNOUNCE_SECONDS, ReplicaAddress, ReplicaRegistry

if TYPE_CHECKING:
    from fastapi import FastAPI

# The base64 of a picture with its JSON is the largest body; a replica knows the exact limit, and says why.
BODY_FACTOR, BODY_OVERHEAD_BYTES = 4 / 3, 2 * 2**20
MAX_ATTEMPTS = 3
# What a replica may hold beyond its queues: requests that it answers at once, refusals among them.
MORE_REQUESTS = 32
# How many parts of a response may wait for the ingress.
MAX_PARTS = 16
QUEUED_SECONDS = "queued_seconds"
TARGETS_PATH = "/metrics/targets"


class RayOptions(BaseModel, extra="forbid"):
    """Arguments of `serve run service.ray_serve:app NAME=VALUE`; everything else is a setting."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    queued_seconds: float = Field(
        default=5.0, gt=0, description="A replica is added when more work waits for each replica."
    )


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    client: tuple[str, int] | None
    scheme: str

    @property
    def can_be_repeated(self) -> bool:
        """Drawing twice changes nothing, nor does creating a style from the same picture; a second deletion
        would find nothing.
        """
        return self.method != "DELETE"

    def scope(self, app: FastAPI) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": self.scheme,
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": list(self.headers),
            "client": self.client,
            "server": None,
            "app": app,
            "state": {},
        }


@dataclass(frozen=True, slots=True)
class ResponseStart:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]


ResponsePart = ResponseStart | bytes


class Replica:
    """One model and its queue: the app of `atelier serve`, whose requests come through Ray."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        prepare_torch(settings)
        from service.app import create_app
        from service.lifecycle import Service
        from service.logs import configure_logs

        configure_logs(settings.log_format)
        self._app = create_app(settings)
        self._service: Service = self._app.state.service
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self._app.router.lifespan_context(self._app))
        await self._service.settled.wait()
        if self._service.failure is not None:
            raise self._service.failure
        await self._announce(settings)

    async def _announce(self, settings: Settings) -> None:
        assert settings.redis_url is not None
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        server, _ = start_http_server(0, addr="0.0.0.0", registry=self._service.metrics.registry)  # noqa: S104
        self._stack.callback(server.shutdown)
        name = serve.get_replica_context().replica_id.unique_id
        address = ReplicaAddress(name, f"{host}:{server.server_port}", os.getpid())
        redis = connect(settings.redis_url)
        registry = ReplicaRegistry(redis)
        await registry.announce(address)

        async def announce_again() -> None:
            while True:
                await asyncio.sleep(ANNOUNCE_SECONDS)
                with suppress(Exception):  # the store's own metrics and log tell of it
                    await registry.announce(address)
                    await self._service.readiness.require().styles.store_state()  # which sets its metric

        announcing = asyncio.create_task(announce_again(), name="announce")

        async def withdraw() -> None:
            announcing.cancel()
            with suppress(Exception):
                await registry.remove(address)
            await redis.aclose()

        self._stack.push_async_callback(withdraw)

    async def answer(self, request: ForwardedRequest) -> AsyncGenerator[ResponsePart]:
        """The start of the response, then its body in parts. Ending it early is a client that disconnects."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue(MAX_PARTS)
        has_body, disconnected = True, asyncio.Event()

        async def receive() -> Message:
            nonlocal has_body
            if has_body:
                has_body = False
                return {"type": "http.request", "body": request.body, "more_body": False}
            await disconnected.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(request.scope(self._app), receive, messages.put)
            finally:
                await messages.put(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    yield ResponseStart(message["status"], tuple(message["headers"]))
                elif message.get("body"):
                    yield message["body"]
            await running
        finally:
            disconnected.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def check_health(self) -> None:
        """NotReady once the model has died: Ray then starts another replica in its place."""
        readiness = self._service.readiness
        if not readiness.is_closed:  # draining is no illness
            readiness.require()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        ready = self._service.readiness.service
        return {QUEUED_SECONDS: sum(batcher.queued_seconds for batcher in ready.batchers) if ready else 0.0}

    async def __del__(self) -> None:
        """Drain: Ray calls this once the replica gets no more requests, and waits for it."""
        await self._stack.aclose()


class Ingress:
    """Hands requests to replicas. Holds no model, and needs no GPU."""

    def __init__(self, replicas: DeploymentHandle[Replica], settings: Settings) -> None:
        assert settings.redis_url is not None
        self._answer = replicas.options(stream=True).answer
        self._max_body_bytes = round(settings.max_upload_bytes * BODY_FACTOR) + BODY_OVERHEAD_BYTES
        self._registry = ReplicaRegistry(connect(settings.redis_url))

    async def __call__(self, request: Request) -> Response:
        if request.url.path == TARGETS_PATH:
            return JSONResponse([found.target for found in await self._registry.addresses()])
        if request.url.path == "/metrics":
            return _refusal(NotReady(f"Each replica has metrics of its own; {TARGETS_PATH} names them."))
        forwarded = await self._read(request)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            answer = self._answer.remote(forwarded)
            assert isinstance(answer, DeploymentResponseGenerator)
            parts: AsyncIterator[ResponsePart] = aiter(answer)
            try:
                start = await anext(parts)
            except TaskCancelledError:
                raise
            except RayError:
                if attempt == MAX_ATTEMPTS or not forwarded.can_be_repeated:
                    break
                continue
            assert isinstance(start, ResponseStart)
            response = StreamingResponse(_bodies(parts), status_code=start.status)
            # Ray's proxy adds the ID, which is the one that the replica got from it.
            response.raw_headers = [pair for pair in start.headers if pair[0].lower() != b"x-request-id"]
            return response
        return _refusal(NotReady("The replica stopped while it worked on this request; send it again."))

    async def _read(self, request: Request) -> ForwardedRequest:
        """With one byte more than the largest body at most: a replica refuses that, and says why."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                break
        return ForwardedRequest(
            method=request.method,
            path=request.scope["path"],
            query=request.scope["query_string"],
            headers=tuple((bytes(name), bytes(value)) for name, value in request.scope["headers"]),
            body=bytes(body[: self._max_body_bytes + 1]),
            client=None if request.client is None else (request.client.host, request.client.port),
            scheme=request.url.scheme,
        )


async def _bodies(parts: AsyncIterator[ResponsePart]) -> AsyncGenerator[bytes]:
    async for part in parts:
        assert isinstance(part, bytes)
        yield part


def _refusal(error: ServiceError) -> Response:
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status, {"Retry-After": "1"})


class QueuedSecondsPolicy:
    """Ray's autoscaling policy: so many replicas that no more work waits for each than the target."""

    def __init__(self, queued_seconds: float) -> None:
        self._target = queued_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        waiting = sum((context.aggregated_metrics or {}).get(QUEUED_SECONDS, {}).values())
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(math.ceil(waiting / self._target), least), most), {}


def app(options: RayOptions) -> serve.Application:
    """What `serve run` runs, with the settings of the environment. ValueError as from `application`."""
    return application(read_settings(), options)


def application(settings: Settings, options: RayOptions) -> serve.Application:
    """An ingress and its replicas. ValueError without a Redis, or for options that contradict each other."""
    if settings.redis_url is None:
        raise ValueError("Replicas share one store: set ATELIER_REDIS_URL to a Redis that all of them reach.")
    if options.min_replicas > options.max_replicas:
        raise ValueError(
            f"min_replicas is {options.min_replicas}, above max_replicas, {options.max_replicas}."
        )
    replica = serve.deployment(
        name="Replica",
        # Ray's default of 5 would keep jobs from the queue that forms the batches.
        max_ongoing_requests=settings.max_queued + settings.max_queued_uploads + MORE_REQUESTS,
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            initial_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function=QueuedSecondsPolicy,
                policy_kwargs={"queued_seconds": options.queued_seconds},
            ),
        ),
        ray_actor_options={
            "num_gpus": 1 if settings.device.startswith("cuda") else 0,
            "num_cpus": settings.threads or 1,
        },
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.drain_seconds + 5,
        graceful_shutdown_wait_loop_s=1,
    )(Replica)
    ingress = serve.deployment(
        name="Ingress",
        max_ongoing_requests=settings.max_connections,
        ray_actor_options={"num_gpus": 0, "num_cpus": 0.1},
    )(Ingress)
    return ingress.bind(replica.bind(settings), settings)
