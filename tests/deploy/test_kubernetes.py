"""The Helm chart, by Helm's own engine: what it renders is what Kubernetes and the service accept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import iter_route_contexts

from service.app import create_app
from service.metrics import Metrics
from service.settings import PREFIX, Settings
from tests.support.process import ROOT
from tests.support.prometheus import DEPLOY, rules

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this platform")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

pytestmark = pytest.mark.slow

CHART = ROOT / "deploy" / "helm" / "atelier"
# Of other projects: Kubernetes' schemas do not have them.
OTHERS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}
Manifest = dict[str, Any]

SMALL: Manifest = {"allowAnonymous": True}
FULL: Manifest = {
    "model": "infinity-2b",
    "apiKeys": {"existingSecret": "keys"},
    "redis": {"existingSecret": "redis"},
    "weights": {"enabled": True, "huggingFaceSecret": "hub"},
    "gpu": {"enabled": True, "count": 1},
    "autoscaling": {"enabled": True, "minReplicas": 2},
    "monitoring": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbookBaseUrl": "https://docs.example/",
    },
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.example"]},
    "networkPolicy": {"from": [{"namespaceSelector": {}}], "extraEgress": [{"ports": [{"port": 4318}]}]},
    "config": {"ATELIER_MAX_QUEUED": 128, "ATELIER_MCP": True},
    "imagePullSecrets": [{"name": "registry"}],
    "priorityClassName": "high",
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
    ],
}
SEVERAL: Manifest = {"replicas": 3, "redis": {"existingSecret": "redis"}, "allowAnonymous": True}


def render(values: Manifest) -> list[Manifest]:
    with helm.Chart.load(CHART) as chart:
        merged = chart.merge_values(values)
        chart.validate_schema(merged)
        files = chart.render(merged, name="release", namespace="images")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def the_only(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = the_only(manifests, "Deployment")["spec"]["template"]["spec"]
    return pod


def environment(container: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container["env"]}


@pytest.mark.parametrize("values", [SMALL, SEVERAL, FULL], ids=["small", "several", "full"])
def test_helm_has_no_complaint_and_kubernetes_accepts_what_it_renders(values: Manifest) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]
    for manifest in render(values):
        if manifest["kind"] not in OTHERS:
            kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_the_validator_would_notice() -> None:
    manifest = the_only(render(SMALL), "Deployment")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize("values", [SMALL, FULL], ids=["small", "full"])
def test_a_pod_ends_after_its_longest_request_and_has_no_privileges(values: Manifest) -> None:
    manifests = render(values)
    pod = pod_of(manifests)
    (container,) = pod["containers"]
    settings = environment(container)
    longest = int(settings["ATELIER_REQUEST_TIMEOUT_SECONDS"])
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert longest < int(settings["ATELIER_DRAIN_SECONDS"]) < pod["terminationGracePeriodSeconds"] - pause
    jobs = [manifest["spec"]["template"]["spec"] for manifest in manifests if manifest["kind"] == "Job"]
    for of_pod in (pod, *jobs):
        assert not of_pod["automountServiceAccountToken"]
        assert not of_pod["enableServiceLinks"]
        assert of_pod["securityContext"]["runAsNonRoot"]
        for each in (*of_pod["containers"], *of_pod.get("initContainers", ())):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    context = pod["securityContext"]
    assert (str(context["runAsUser"]), str(context["fsGroup"])) == user.groups()


def test_settings_probes_and_routes_are_those_of_the_service() -> None:
    manifests = render(FULL)
    (container,) = pod_of(manifests)["containers"]
    names = {name for name in environment(container) if name.startswith(PREFIX)}
    assert names >= {"ATELIER_REDIS_URL", "ATELIER_API_KEYS_FILE", "ATELIER_MODELS_DIR", "ATELIER_MCP"}
    assert names <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert environment(container)["ATELIER_MCP"] == "true"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    app = create_app(Settings(data_dir=Path("unused"), mcp=True))
    paths = {route.path or "" for route in iter_route_contexts(app.routes)}
    assert {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")} == {
        "/livez",
        "/readyz",
    }
    (rule,) = the_only(manifests, "HTTPRoute")["spec"]["rules"]
    routed = [match["path"]["value"] for match in rule["matches"]]
    assert {"/livez", "/readyz"} <= paths
    assert all(any(path.startswith(prefix) for path in paths) for prefix in routed)
    private = {"/livez", "/readyz", "/metrics"}
    public = paths - private
    assert all(
        any(path.startswith(prefix) for prefix in routed if prefix != "/" or path == "/") for path in public
    )
    assert not any(path.startswith(prefix) for path in private for prefix in routed if prefix != "/")


def test_what_watches_and_scales_is_what_deploy_has() -> None:
    manifests = render(FULL)
    rendered = [
        rule for group in the_only(manifests, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]
    ]
    alerts = rules("alerts.yml")
    for alert in alerts:
        page = alert["annotations"]["runbook_url"].removeprefix("docs/").removesuffix(".md")
        alert["annotations"]["runbook_url"] = f"https://docs.example/{page}.html"
    assert rendered == [*rules("recording_rules.yml"), *alerts]
    dashboard = the_only(manifests, "ConfigMap")["data"]["atelier.json"]
    assert json.loads(dashboard) == json.loads((DEPLOY / "dashboards" / "atelier.json").read_text())
    monitor, service = the_only(manifests, "ServiceMonitor"), the_only(manifests, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["relabelings"] == [
        {"targetLabel": "job", "replacement": "atelier"}
    ]
    scaled = the_only(manifests, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == the_only(manifests, "Deployment")["metadata"]["name"]
    assert "replicas" not in the_only(manifests, "Deployment")["spec"]
    (trigger,) = scaled["triggers"]
    (metric,) = re.findall(r"atelier_\w+", trigger["metadata"]["query"])
    assert metric in {family.name for family in Metrics().registry.collect()}
    assert 'namespace="images"' in trigger["metadata"]["query"]


def test_services_and_policies_select_the_pods_and_not_the_job() -> None:
    manifests = render(FULL)
    of_pods = the_only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    of_job = the_only(manifests, "Job")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        the_only(manifests, "Service")["spec"]["selector"],
        the_only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the_only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= of_pods
        assert not selector.items() <= of_job
    marker = re.search(
        r"touch (\S+)", the_only(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]["args"][0]
    )
    assert marker is not None
    assert marker[1] in pod_of(manifests)["initContainers"][0]["args"][0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "apiKeys.existingSecret"),
        ({**SMALL, "replicas": 2}, "redis.existingSecret"),
        ({**SMALL, "autoscaling": {"enabled": True}}, "redis.existingSecret"),
        ({**SEVERAL, "autoscaling": {"minReplicas": 9}}, "minReplicas is greater"),
        ({**SMALL, "replica": 2}, "'replica' not allowed"),
        ({**SMALL, "config": {"ATELIER_DRAIN_SECONDS": 1}}, "requestTimeoutSeconds"),
        ({**SMALL, "config": {"PATH": "/tmp"}}, "PATH"),
        ({**SMALL, "gpu": {"count": 0}}, "/gpu/count"),
        ({**SMALL, "weights": {"fetch": "a; rm -rf /"}}, "/weights/fetch"),
        ({**SMALL, "httpRoute": {"enabled": True}}, "parentRefs"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_reason(values: Manifest, reason: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    assert reason in str(refused.value)
