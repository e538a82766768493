"""A real Prometheus with the rules of deploy/, scraping a server of the tests."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.process import ROOT
from tests.support.tools import need

DEPLOY = ROOT / "deploy"
RULES = ("recording_rules.yml", "alerts.yml")
DASHBOARD = DEPLOY / "dashboards" / "atelier.json"
# Often enough for a rate after a second; a rate needs two samples.
INTERVAL = "250ms"
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
COMPARISON = re.compile(r" (==|>|<) ")


@dataclass(frozen=True, slots=True)
class Query:
    """An expression that somebody looks at, as Prometheus takes it."""

    shown_in: str
    expression: str


def queries_of_panels() -> list[Query]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    found = []
    for panel in panels:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append(Query(f"panel: {panel['title']}", expression))
    return found


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries_of_alerts() -> list[Query]:
    """What each alert compares: the comparison gives 0 or 1 rather than nothing while the alert is silent."""
    return [
        Query(
            f"alert: {alert['alert']}",
            COMPARISON.sub(r" \1 bool ", re.sub(r"^absent\((.*)\)$", r"\1", alert["expr"])),
        )
        for alert in rules("alerts.yml")
    ]


@dataclass(frozen=True, slots=True)
class Prometheus:
    client: httpx.Client

    def ask(self, path: str, **parameters: str) -> Any:
        response = self.client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, (parameters, response.text)
        return response.json()["data"]

    def values(self, expression: str) -> list[float]:
        """Of every series that the expression has now, without those that are not a number."""
        series = self.ask("query", query=expression)["result"]
        return [value for one in series if not math.isnan(value := float(one["value"][1]))]

    def wait_for(self, expression: str) -> list[float]:
        """The values, once there are any. Each look is a round trip; the test's time limit bounds them."""
        while not (values := self.values(expression)):
            pass
        return values


@contextmanager
def scraping(url: str, folder: Path, *features: str) -> Iterator[Prometheus]:
    """Prometheus with deploy/prometheus.yml, but for whom it scrapes, and how often."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    (scrape,) = config["scrape_configs"]
    del scrape["dns_sd_configs"]
    scrape["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        shutil.copy(DEPLOY / name, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        need("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address={address}",
        *(f"--enable-feature={feature}" for feature in features),
    ]
    log = folder / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
                while not _is_ready(client):
                    assert process.poll() is None, log.read_text()
                yield Prometheus(client)
        finally:
            process.terminate()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
