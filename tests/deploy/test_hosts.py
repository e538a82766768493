"""systemd's units and the proxies, by the real programs: nginx and Caddy in front of a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.settings import PREFIX, Settings
from tests.support.certificates import credentials
from tests.support.process import ROOT
from tests.support.server import Running
from tests.support.soak_store import free_port
from tests.support.tools import need

pytestmark = pytest.mark.slow

SYSTEMD = ROOT / "deploy" / "systemd"
PROXY = ROOT / "deploy" / "proxy"
UNITS = ["atelier.service", "atelier@.service"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_no_complaint_and_waits_for_the_drain(name: str, tmp_path: Path) -> None:
    text = (SYSTEMD / name).read_text()
    unit = tmp_path / name.replace("@", "@0")  # a template is verified as an instance of it
    unit.write_text(text.replace("/opt/atelier/bin/atelier", sys.executable))
    command: list[str | Path] = [need("systemd-analyze"), "verify", "--man=no", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    settings = Settings(data_dir=tmp_path)
    timeout = re.search(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
    assert timeout is not None
    assert int(timeout[1]) > settings.drain_seconds
    named = set(re.findall(rf"({PREFIX}[A-Z_]+)=", text))
    assert named <= {PREFIX + field.upper() for field in Settings.model_fields}


@contextmanager
def proxy(command: list[str | Path], url: str, log: Path) -> Iterator[httpx.Client]:
    """A client of the proxy that the command starts; the proxy's certificate is one of the test."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(log.parent), "XDG_DATA_HOME": str(log.parent)}
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            with httpx.Client(
                base_url=url, verify=False, timeout=60, headers={"Host": "localhost"}
            ) as client:
                while not _answers(client):
                    assert process.poll() is None, log.read_text()
                yield client
        finally:
            process.terminate()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/version").status_code == 200
    except httpx.TransportError:
        return False


def check_through(client: httpx.Client) -> None:
    """Images and events pass, headers of both sides too; probes and metrics stay inside."""
    body = {"prompt": "a star", "stream": True, "partial_images": 1}
    with client.stream(
        "POST", "/v1/images/generations", json=body, headers={"X-Request-ID": "through"}
    ) as response:
        assert response.status_code == 200
        assert response.headers["X-Request-ID"] == "through"
        events = [line for line in response.iter_lines() if line.startswith("event: ")]
    assert events == ["event: image_generation.partial_image", "event: image_generation.completed"]
    for path in ("/metrics", "/livez", "/readyz"):
        assert client.get(path).status_code == 404, path
    too_large = client.post("/v1/styles", files={"image": b"x" * 11 * 2**20})
    assert too_large.status_code == 413, too_large.text
    assert too_large.json()["error"]["code"] == "payload_too_large"


def test_nginx_serves_the_service(server: Running, tmp_path: Path) -> None:
    port, plain_port = free_port(), free_port()
    given = credentials()
    (tmp_path / "fullchain.pem").write_bytes(given.chain)
    (tmp_path / "privkey.pem").write_bytes(given.key)
    text = (PROXY / "nginx.conf").read_text()
    text = re.sub(r"listen \[::\].*\n", "", text)
    for mine, theirs in {
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/nginx/tls": str(tmp_path),
        "127.0.0.1:8000": f"{server.host}:{server.port}",
    }.items():
        assert mine in text
        text = text.replace(mine, theirs)
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # whose workers could not write to the test's folder
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"{user} daemon off; pid {tmp_path}/pid; events {{}} http {{ access_log off; {paths}\n{text}\n}}"
    )
    command: list[str | Path] = [need("nginx"), "-p", tmp_path, "-e", tmp_path / "errors", "-c", config]
    checked = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    with proxy(command, f"https://127.0.0.1:{port}", tmp_path / "log") as client:
        check_through(client)
        moved = httpx.get(f"http://127.0.0.1:{plain_port}/docs?a=b")
        assert (moved.status_code, moved.headers["Location"]) == (301, "https://127.0.0.1/docs?a=b")


def test_caddy_serves_the_service(server: Running, tmp_path: Path) -> None:
    need("caddy")
    formatted = subprocess.run(
        ["caddy", "fmt", PROXY / "Caddyfile"], capture_output=True, text=True, timeout=60
    )
    text = (PROXY / "Caddyfile").read_text()
    assert formatted.stdout == text
    port = free_port()
    for mine, theirs in {
        "\nimages.example.com {": f"\nhttp://127.0.0.1:{port}, http://localhost:{port} {{",
        "reverse_proxy 127.0.0.1:8000 {": f"reverse_proxy {server.host}:{server.port} {{",
    }.items():
        assert mine in text
        text = text.replace(mine, theirs)
    config = tmp_path / "Caddyfile"
    config.write_text("{\n\tadmin off\n}\n" + text)
    command: list[str | Path] = ["caddy", "run", "--adapter", "caddyfile", "--config", config]
    with proxy(command, f"http://127.0.0.1:{port}", tmp_path / "log") as client:
        check_through(client)
