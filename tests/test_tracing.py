"""Traces of real requests, in memory and by a real exporter; nothing is traced unless it is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind

from service.app import create_app
from service.lifecycle import CannotStart
from service.settings import Settings
from service.stage_timer import RequestTrace
from service.tracing import Tracing, tracing_from_environment
from tests.support.batcher import Clock
from tests.support.jobs import ended, submit
from tests.support.process import ROOT
from tests.support.server import serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_OF_CALLER = "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = (f"00-{CALLER}-{SPAN_OF_CALLER}-{flag}" for flag in ("01", "00"))
Traced = tuple[httpx.Client, InMemorySpanExporter]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings(data_dir=tmp_path_factory.mktemp("traced"))
    with (
        serving(settings, tiny_generator(), tracing=Tracing(provider)) as server,
        server.client() as client,
    ):
        server.wait_until_settled()
        yield client, exporter


def finished(traced: Traced) -> tuple[ReadableSpan, ...]:
    """All spans so far. A request is recorded after its last byte was sent: the event loop has come to that
    once it has answered another one.
    """
    client, exporter = traced
    client.get("/livez")
    return exporter.get_finished_spans()


def tree(spans: Sequence[ReadableSpan]) -> dict[str, list[str]]:
    """The names of each span's children, in the order of their beginnings."""
    names = {span.context.span_id: span.name for span in spans if span.context}
    found: dict[str, list[str]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if span.parent is not None:
            found.setdefault(names.get(span.parent.span_id, "caller"), []).append(span.name)
    return found


def test_a_request_is_a_trace_of_its_wait_its_batch_and_its_steps(traced: Traced) -> None:
    client, exporter = traced
    style = upload(client, picture()).json()["id"]
    exporter.clear()
    response = client.post(
        "/v1/images/generations", json={"prompt": "a star", "style": style}, headers={"traceparent": SAMPLED}
    )
    assert response.status_code == 200
    spans = finished(traced)
    route = "POST /v1/images/generations"
    assert tree(spans) == {
        "caller": [route],
        route: ["style", "wait", "batch", "encode"],
        "batch": ["text", "transformer", "decode"],
        "transformer": [f"step {number}" for number in range(1, 7)],
    }
    by_name = {span.name: span for span in spans}
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {CALLER}
    root = by_name[route]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == SPAN_OF_CALLER
    assert root.attributes is not None
    assert root.attributes["http.response.status_code"] == 200
    assert by_name["batch"].attributes == {"atelier.num_images": 1, "atelier.num_jobs_in_batch": 1}
    for span in spans:
        assert span.start_time is not None
        assert span.end_time is not None
        parent = next((other for other in spans if span.parent and other.context == span.parent), root)
        assert (parent.start_time or 0) <= span.start_time <= span.end_time <= (parent.end_time or 0), (
            span.name
        )
    assert root.context is not None
    assert response.headers["traceparent"] == f"00-{CALLER}-{root.context.span_id:016x}-01"


def test_reading_the_picture_of_an_edit_is_a_part_of_its_batch(traced: Traced) -> None:
    client, exporter = traced
    exporter.clear()
    files = {"image": ("photo.png", picture(), "image/png")}
    headers = {"traceparent": SAMPLED}
    response = client.post("/v1/images/edits", files=files, data={"prompt": "a star"}, headers=headers)
    assert response.status_code == 200
    of_batch = tree(finished(traced))["batch"]
    assert of_batch == ["text", "tokenize", "transformer", "decode"]


def test_log_lines_and_exemplars_name_the_trace(traced: Traced) -> None:
    client, _ = traced
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        client.get("/v1/models", headers={"traceparent": SAMPLED})
        finished(traced)
    (line,) = [line for line in lines if line["event"] == "request" and line["path"] == "/v1/models"]
    assert line["trace_id"] == CALLER
    metrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    (bucket,) = re.findall(
        r'^atelier_request_duration_seconds_bucket.*/v1/models".* # (.*)$', metrics, re.MULTILINE
    )
    assert f'trace_id="{CALLER}"' in bucket


def test_a_job_is_a_part_of_the_trace_that_queued_it(traced: Traced) -> None:
    client, exporter = traced
    exporter.clear()
    job = submit(client, headers={"traceparent": SAMPLED})
    assert ended(client, job)["status"] == "succeeded"
    spans = [span for span in finished(traced) if span.context]
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {CALLER}
    of_job, name = tree(spans), "job /v1/images/generations"
    assert of_job["POST /v1/images/generations"] == [name]
    assert of_job[name] == ["wait", "batch", "encode"]
    (span,) = [span for span in spans if span.name == name]
    assert span.attributes == {"atelier.job": job["id"], "atelier.attempt": 1}
    assert span.kind is SpanKind.CONSUMER


def test_an_error_is_marked_and_probes_are_not_traced(traced: Traced) -> None:
    client, exporter = traced
    exporter.clear()
    client.get("/livez", headers={"traceparent": SAMPLED})
    client.get("/v1/styles/sty_none", headers={"traceparent": SAMPLED})
    (span,) = finished(traced)
    assert span.name == "GET /v1/styles/{style_id}"
    assert span.attributes is not None
    assert (span.attributes["error.type"], span.status.is_ok) == ("404", True)  # the client's mistake


def test_what_the_caller_does_not_sample_is_not_recorded_and_still_passed_on(traced: Traced) -> None:
    client, exporter = traced
    exporter.clear()
    response = client.get("/v1/models", headers={"traceparent": NOT_SAMPLED})
    assert response.headers["traceparent"].startswith(f"00-{CALLER}-")
    assert response.headers["traceparent"].endswith("-00")
    assert client.get("/v1/models", headers={"traceparent": "what?"}).status_code == 200
    assert finished(traced) == ()


def test_a_server_error_has_the_status_of_one() -> None:
    exporter, provider, clock = InMemorySpanExporter(), TracerProvider(), Clock()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing, trace = Tracing(provider), RequestTrace(clock)
    request = tracing.begin({})
    clock.now += 2
    tracing.end(request, trace, "GET /", {"http.response.status_code": 503, "error.type": None})
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "ERROR"
    assert (span.end_time or 0) - (span.start_time or 0) == 2_000_000_000
    assert span.attributes == {"http.response.status_code": 503}


class _Collector(BaseHTTPRequestHandler):
    received: list[ExportTraceServiceRequest]
    compressed = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_environment_names_a_collector_that_gets_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[ExportTraceServiceRequest] = []
    handler = type("Handler", (_Collector,), {"received": received})
    with HTTPServer(("127.0.0.1", 0), handler) as collector:
        answering = threading.Thread(target=collector.serve_forever)
        answering.start()
        try:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
            monkeypatch.setenv("OTEL_SERVICE_NAME", "studio")
            tracing = tracing_from_environment()
            assert tracing is not None
            tracing.end(tracing.begin({}), RequestTrace(), "GET /", {})
            tracing.close()
        finally:
            collector.shutdown()
            answering.join()
    (sent,) = received
    (resource,) = sent.resource_spans
    attributes = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert attributes["service.name"] == "studio"
    assert [span.name for span in resource.scope_spans[0].spans] == ["GET /"]


def test_a_protocol_that_is_not_supported_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(CannotStart, match="http/protobuf alone, not by grpc"):
        create_app(Settings(data_dir=tmp_path))


def test_without_a_collector_nothing_is_imported_and_nothing_is_traced() -> None:
    code = (
        "import sys; from service.tracing import tracing_from_environment as of; "
        "assert of() is None; assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={}, timeout=60)
