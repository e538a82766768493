"""One server process: listen, say when it is ready, end well."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvicorn

from service.app import Service, create_app
from service.logs import configure_logs
from service.settings import Settings

START = """\
Atelier is ready on {url} with the model {model}. Try:

  curl -F image=@style.png {url}/v1/styles
  curl {url}/v1/images/generations -H 'Content-Type: application/json' -H 'Accept: image/png' \
-d '{{"prompt": "a star", "style": "sty_..."}}' -o star.png
  curl {url}/metrics
"""


def run_server(settings: Settings) -> int:
    """Serve until a signal ends it, and print how to use the service once it is ready.

    Returns the exit status: 0, or 1 when the service could not start.
    """
    # uvicorn puts the signal back and raises it again once it has finished; this makes that a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(settings.log_format)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(uvicorn.Server(config), app.state.service))


async def _serve(server: uvicorn.Server, service: Service) -> int:
    serving = asyncio.create_task(server.serve())
    settled = asyncio.create_task(service.settled.wait())
    await asyncio.wait({serving, settled}, return_when=asyncio.FIRST_COMPLETED)
    if service.failure is not None:
        server.should_exit = True
    elif not serving.done():
        model = service.readiness.require().generator.name
        print(START.format(url=_url(server), model=model), flush=True)
    await serving
    settled.cancel()
    return 0 if service.failure is None else 1


def _url(server: uvicorn.Server) -> str:
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
