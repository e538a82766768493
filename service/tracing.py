"""Tracing: one OpenTelemetry trace a request, off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

The spans of a request are made once it has ended, from its RequestTrace, which measures its stages anyway.
Only its own span begins with it, so that log lines, exemplars and calls to others can name it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service import __version__
from service.stage_timer import STAGES_OF_MODEL, RequestTrace, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OpenSpan

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
# Stages of the batch that drew the images, or that read the style; they are parts of the span "batch".
BATCH_STAGES = frozenset(STAGES_OF_MODEL)
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """The span of a request that has begun."""

    span: OpenSpan
    began_at: int  # in nanoseconds since 1970: when the request's own clock began

    @property
    def headers(self) -> dict[str, str]:
        """`traceparent`, and `tracestate` if there is one, for the response and for calls to others."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self.span))
        return carrier

    @property
    def ids(self) -> dict[str, str]:
        """For log lines."""
        context = self.span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    @property
    def exemplar(self) -> dict[str, str] | None:
        """For a metric's observation; None where the trace is not recorded, so that nobody finds it."""
        return self.ids if self.span.is_recording() else None


class Tracing:
    """Makes spans and hands them to the provider's exporter."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("atelier", __version__)

    def begin(self, headers: Mapping[str, str], *, is_job: bool = False) -> TracedRequest:
        """A request that has just arrived: a part of the caller's trace where the headers name one. A job is
        a part of the trace of the request that queued it.
        """
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        now, kind = time.time_ns(), SpanKind.CONSUMER if is_job else SpanKind.SERVER
        callers = TraceContextTextMapPropagator().extract(headers)
        span = self._tracer.start_span("request", callers, kind=kind, start_time=now)
        return TracedRequest(span, now)

    def end(
        self, request: TracedRequest, trace: RequestTrace, name: str, attributes: Mapping[str, Any]
    ) -> None:
        """The request has ended: its span gets its name, and children of its stages and steps."""
        from opentelemetry.trace import StatusCode

        def at(seconds: float) -> int:
            return request.began_at + round((seconds - trace.began) * NANOSECONDS)

        span = request.span
        if span.is_recording():
            span.update_name(name)
            span.set_attributes({key: value for key, value in attributes.items() if value is not None})
            if attributes.get("http.response.status_code", 0) >= 500:
                span.set_status(StatusCode.ERROR)
            self._add_stages(span, trace, at)
        span.end(end_time=at(trace.clock()))

    def _add_stages(self, parent: OpenSpan, trace: RequestTrace, at: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        def add(name: str, began: float, ended: float, under: OpenSpan) -> OpenSpan:
            child = self._tracer.start_span(name, set_span_in_context(under), start_time=at(began))
            child.end(end_time=at(ended))
            return child

        for spans in _by_batch(trace.spans):
            if spans[0].stage not in BATCH_STAGES:
                (stage,) = spans
                add("wait" if stage.stage == "queue" else stage.stage, stage.began, stage.ended, parent)
                continue
            context = set_span_in_context(parent)
            batch = self._tracer.start_span("batch", context, start_time=at(spans[0].began))
            batch.set_attributes(
                {f"atelier.{name}": num for name, num in trace.fields.items() if isinstance(num, int)}
            )
            for stage in spans:
                part = add(stage.stage, stage.began, stage.ended, batch)
                if stage.stage == "transformer":
                    for number, (began, ended) in enumerate(_steps(stage, trace), start=1):
                        add(f"step {number}", began, ended, part)
            batch.end(end_time=at(spans[-1].ended))

    def close(self) -> None:
        """Sends what has not been sent yet; waits for the collector, within the exporter's timeout."""
        self._provider.shutdown()


def _by_batch(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """The stages of one batch together, every other one alone."""
    batch: list[Span] = []
    for span in spans:
        if span.stage in BATCH_STAGES:
            batch.append(span)
            continue
        if batch:
            yield batch
            batch = []
        yield [span]
    if batch:
        yield batch


def _steps(transformer: Span, trace: RequestTrace) -> Iterator[tuple[float, float]]:
    """When each step began and ended, from the durations of steps and of the gaps between them."""
    began = transformer.began
    for seconds, gap in zip(trace.step_seconds, (*trace.gap_seconds, 0.0), strict=False):
        yield began, min(began + seconds, transformer.ended)
        began = min(began + seconds + gap, transformer.ended)


def tracing_from_environment() -> Tracing | None:
    """None unless OpenTelemetry's own variables name a collector; they also say how to sample, and the name
    of the service. ValueError when the packages are missing, or for a protocol that is not supported.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), PROTOCOL)
    if protocol != PROTOCOL:
        raise ValueError(f"Traces are sent by {PROTOCOL} alone, not by {protocol}: unset {PROTOCOLS[1]}.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(f"{ENDPOINTS[0]} needs packages: pip install 'atelier-style[otel]'.") from error
    os.environ.setdefault("OTEL_SERVICE_NAME", "atelier")
    provider = TracerProvider(resource=Resource.create({"service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
