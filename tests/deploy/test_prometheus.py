"""What watches the service: rules and their unit tests by promtool, and every query on a real Prometheus.

`pytest -s` prints the table of queries with their series.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.metrics import LATENCY_BUCKETS
from tests.support.jobs import ended, submit
from tests.support.process import ROOT
from tests.support.prometheus import (
    DEPLOY,
    RULES,
    Prometheus,
    queries_of_alerts,
    queries_of_panels,
    rules,
    scraping,
)
from tests.support.server import Running
from tests.support.tools import need
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

UNIT_TESTS = Path(__file__).parent / "alerts_test.yml"


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([need("promtool"), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    assert "2 rule files found" in promtool("check", "config", DEPLOY / "prometheus.yml")
    promtool("check", "rules", *(DEPLOY / name for name in RULES))


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    """Each of the unit tests asks for all alerts that fire, so each also shows the others silent."""
    assert "SUCCESS" in promtool("test", "rules", UNIT_TESTS)
    fired = set(re.findall(r'alertname="(\w+)"', UNIT_TESTS.read_text()))
    assert fired == {alert["alert"] for alert in rules("alerts.yml")}


def test_each_alert_names_a_page_that_exists_and_each_page_is_of_an_alert() -> None:
    alerts = rules("alerts.yml")
    pages = {alert["annotations"]["runbook_url"] for alert in alerts}
    assert pages == {str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "runbooks").glob("*.md")}
    for alert in alerts:
        page = ROOT / alert["annotations"]["runbook_url"]
        severity = alert["labels"]["severity"]
        assert page.read_text().startswith(f"# {alert['alert']}\n\nSeverity: {severity}.\n")


def test_the_latency_objective_is_a_bucket() -> None:
    bounds = set(re.findall(r'le="([^"]+)"', (DEPLOY / "recording_rules.yml").read_text()))
    assert bounds
    assert bounds <= {f"{float(bucket)}" for bucket in LATENCY_BUCKETS}


@pytest.fixture(scope="module")
def prometheus(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """After a short load, a stylised stream and a job among it."""
    with (
        scraping(server.url, tmp_path_factory.mktemp("prometheus")) as prometheus,
        server.client() as client,
    ):
        prometheus.wait_for("atelier_ready == 1")
        put_load_on(client)
        # A rate needs each series before it grows: those of labels that are new came with the first load.
        (num_images,) = prometheus.wait_for("atelier_images_total > 0")
        put_load_on(client)
        prometheus.wait_for(f"atelier_images_total > {num_images}")
        put_load_on(client)
        yield prometheus


def put_load_on(client: httpx.Client) -> None:
    style = upload(client, picture()).json()["id"]
    for body in (
        {"prompt": "a star"},
        {"prompt": "a star", "style": style},
        {"prompt": "a star", "style": style, "stream": True, "partial_images": 1},
    ):
        assert client.post("/v1/images/generations", json=body).status_code == 200
    assert ended(client, submit(client))["status"] == "succeeded"
    assert client.get("/v1/styles/sty_none").status_code == 404


def test_every_query_of_every_panel_and_alert_has_a_series(prometheus: Prometheus) -> None:
    queries = [*queries_of_panels(), *queries_of_alerts()]
    table = [(query, prometheus.wait_for(query.expression)) for query in queries]
    print(f"\n{'series':>6}  {'first value':>12}  query")
    for query, values in table:
        print(f"{len(values):6}  {values[0]:12.6g}  {query.shown_in}: {' '.join(query.expression.split())}")


def test_no_rule_fails_and_no_alert_fires_on_a_service_that_works(prometheus: Prometheus) -> None:
    prometheus.wait_for("job:atelier_stylised_slow:ratio_rate5m")
    groups = prometheus.ask("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == sum(len(rules(name)) for name in RULES)
    assert {rule["health"] for rule in evaluated} == {"ok"}
    assert not [rule["name"] for rule in evaluated if rule.get("state") == "firing"]
