"""The metrics' promises, and that everything under deploy/ asks only for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from prometheus_client import generate_latest

from service.app import create_app
from service.metrics import LATENCY_BUCKETS, Metrics
from service.settings import Settings

DEPLOY = Path(__file__).parent.parent / "deploy"
ASKING = ["recording_rules.yml", "alerts.yml", "dashboards/atelier.json"]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


def series_names() -> set[str]:
    """Every name that a query may use, also of metrics that have no label values yet."""
    return {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in SUFFIXES.get(family.type, ("",))
    }


@pytest.mark.parametrize("name", ASKING)
def test_what_deploy_asks_for_exists(name: str) -> None:
    text = (DEPLOY / name).read_text()
    asked = set(re.findall(r"(?<![:\w])(?:atelier|process|python)_\w+", text))
    assert asked
    assert asked <= series_names()
    recorded = set(re.findall(r"record: (\S+)", (DEPLOY / "recording_rules.yml").read_text()))
    assert set(re.findall(r"job:\w+:\w+", text)) <= recorded


def test_the_routes_that_deploy_asks_for_are_routes() -> None:
    texts = [(DEPLOY / name).read_text() for name in ASKING]
    asked = {pattern for text in texts for pattern in re.findall(r'route=~?\\?"([^"\\]+)', text)}
    routes = iter_route_contexts(create_app(Settings(data_dir=Path("unused"))).routes)
    labels = {f"{method} {route.path}" for route in routes for method in route.methods or ()}
    assert len(asked) == 2
    assert {
        pattern for pattern in asked if not any(re.fullmatch(pattern, label) for label in labels)
    } == set()


def test_the_dashboard_shows_every_metric_of_our_own() -> None:
    dashboard = json.loads((DEPLOY / "dashboards" / "atelier.json").read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ()))
    families = {family.name for family in Metrics().registry.collect() if family.name.startswith("atelier_")}
    assert {name for name in families if name not in queries} == {"atelier_build"}


def test_each_instance_counts_for_itself() -> None:
    first, second = Metrics(), Metrics()
    first.images.inc()
    assert first.registry.get_sample_value("atelier_images_total") == 1
    assert second.registry.get_sample_value("atelier_images_total") == 0


def test_counters_of_a_closed_set_are_there_before_the_first_event() -> None:
    lines = generate_latest(Metrics().registry).decode()
    assert 'atelier_rejections_total{queue="generate",reason="queue_full"} 0.0' in lines
    assert 'atelier_cancellations_total{queue="extract",when="running"} 0.0' in lines
    assert 'atelier_style_features_total{result="hit"} 0.0' in lines


def test_names_keep_the_conventions() -> None:
    for family in Metrics().registry.collect():
        if family.name.startswith("atelier_"):
            assert not family.name.endswith(("_ms", "_milliseconds", "_total")), family.name
            assert family.documentation.endswith("."), family.name
            assert ("duration" in family.name or "wait" in family.name) <= family.name.endswith("_seconds")


def test_the_latency_buckets_rise_from_ten_milliseconds_to_a_minute() -> None:
    assert list(LATENCY_BUCKETS) == sorted(set(LATENCY_BUCKETS))
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.01, 60)
