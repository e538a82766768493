"""Every Prometheus metric of the service, with its labels and buckets."""

from __future__ import annotations

from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from service.stage_timer import STAGES_OF_MODEL

# From one nano image on a laptop to a queue of large ones; dense between .2 and 1 s, where a 2B image falls.
# fmt: off
LATENCY_BUCKETS = (
    .01, .025, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10, 15, 30, 60,
)
# fmt: on
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

QUEUES = ("generate", "extract", "background")
# Codes of errors that close a connection; see http/protocol.py.
CLOSED_CONNECTIONS = (
    "header_too_large", "invalid_value", "malformed_request", "request_timeout", "too_many_connections",
)  # fmt: skip
REFUSALS = (
    "cross_site_request",
    "host_not_allowed",
    "invalid_api_key",
    "rate_limit_exceeded",
    "idempotency_key_in_use",
    "idempotency_key_reused",
    "style_quota_exceeded",
)
# Uploads wait for a slot to be decoded, then for the model in the queue "extract".
ADMISSIONS = (*QUEUES, "upload", "jobs")
STAGES_OF_REQUESTS = ("upload", "picture", "store")
STAGES = (*STAGES_OF_MODEL, "style", "encode", *STAGES_OF_REQUESTS)
REJECTIONS = ("queue_full", "not_ready", "deadline_exceeded")
CANCELLATIONS = ("queued", "running")
JOB_OUTCOMES = ("succeeded", "failed", "cancelled")
WEBHOOK_OUTCOMES = ("delivered", "retried", "dead")
JOB_RETRIES = ("worker_died", "failed")
FEATURE_RESULTS = ("hit", "miss", "rebuilt")


class Metrics:
    """One registry and its metrics. Instances share nothing: each app, and each test, has its own.

    Labels come from small closed sets only: the tuples above, route templates, status codes and step
    numbers; never a style ID, a key or a prompt. Counters over a closed set start at 0, so that the first
    event shows in `increase`.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(name, help, labels, namespace="atelier", registry=registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(name, help, labels, namespace="atelier", registry=registry)

        def latency(name: str, help: str, *labels: str) -> Histogram:
            return Histogram(
                name, help, labels, namespace="atelier", registry=registry, buckets=LATENCY_BUCKETS
            )

        def size(name: str, help: str, *labels: str) -> Histogram:
            return Histogram(name, help, labels, namespace="atelier", registry=registry, buckets=SIZE_BUCKETS)

        self.requests = counter(
            "requests", "HTTP responses, by route template and status code.", "route", "code"
        )
        self.request_duration_seconds = latency(
            "request_duration_seconds", "From a request's first byte to its response's last.", "route"
        )
        self.stylised_duration_seconds = latency(
            "stylised_duration_seconds",
            "From first byte to last of a request that drew images in a style, streamed ones too.",
        )
        self.requests_running = gauge(
            "requests_running", "Requests being answered now, this scrape included."
        )
        self.refusals = counter(
            "refusals",
            "Requests refused for their API key, its limits or their Idempotency-Key.",
            "reason",
        )
        self.first_preview_seconds = latency(
            "first_preview_seconds", "From a request's first byte to its first partial image, once a request."
        )
        self.closed_connections = counter(
            "closed_connections", "Connections closed before their request was complete.", "reason"
        )
        self.images = counter("images", "Images drawn and handed to a response.")

        self.queue_depth = gauge(
            "queue_depth", "Jobs waiting for the model, without cancelled ones; uploads being read.", "queue"
        )
        self.queued_work_seconds = gauge(
            "queued_work_seconds", "Estimated time that the waiting work will take.", "queue"
        )
        self.queue_wait_seconds = latency(
            "queue_wait_seconds", "From a job's admission to its batch reaching the model.", "queue"
        )
        self.batch_size = size("batch_size", "Jobs that ran together.", "queue")
        self.batch_rows = size("batch_rows", "Rows of a generation batch: job x path x guidance half.")
        self.rejections = counter(
            "rejections", "Jobs refused on admission, or expired before their result.", "queue", "reason"
        )
        self.cancellations = counter(
            "cancellations", "Jobs whose client disconnected, by the state of the job.", "queue", "when"
        )
        self.out_of_memory_splits = counter(
            "out_of_memory_splits", "Batches that did not fit and were run again in two halves.", "queue"
        )

        self.stage_duration_seconds = latency(
            "stage_duration_seconds",
            "Time in one stage: of a batch, of one image (style, encode), of reading one style (extract, "
            "decompose), or of one request for a style (upload, picture, store).",
            "stage",
        )
        self.step_duration_seconds = latency(
            "step_duration_seconds", "Time a batch spent in one step of the transformer, from 1.", "step"
        )
        self.content_paths_shared = counter(
            "content_paths_shared", "Content paths saved because jobs of a batch shared one."
        )

        self.jobs = counter("jobs", "Jobs that ended, by how.", "outcome")
        self.webhooks = counter("webhooks", "Webhooks that were sent, by what became of it.", "outcome")
        self.job_retries = counter("job_retries", "Jobs that were started again, by why.", "reason")
        self.job_duration_seconds = latency(
            "job_duration_seconds", "From the start of a job that succeeded to its result, pauses included."
        )
        self.jobs_open = gauge(
            "jobs_open", "Jobs that wait or run, of all replicas: as last seen by this one."
        )
        self.jobs_open_seconds = gauge(
            "jobs_open_seconds", "Estimated time that these jobs take one replica, as last seen by this one."
        )

        self.style_features = counter("style_features", "Lookups of a style feature, by result.", "result")
        self.store_errors = counter("store_errors", "Operations of the style store that failed.")
        self.store_read_only = gauge(
            "store_read_only", "1 while the style store is full and takes no new styles, else 0."
        )

        self.ready = gauge("ready", "1 while the service accepts jobs, else 0.")
        # Info appends `_info`: this is atelier_build_info.
        self.build_info = Info(
            "build", "Version of the service and the model it runs.", namespace="atelier", registry=registry
        )

        self._start_at_zero()
        for outcome in JOB_OUTCOMES:
            self.jobs.labels(outcome=outcome)
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks.labels(outcome=outcome)
        for reason in JOB_RETRIES:
            self.job_retries.labels(reason=reason)

    def _start_at_zero(self) -> None:
        for reason in CLOSED_CONNECTIONS:
            self.closed_connections.labels(reason=reason)
        for reason in REFUSALS:
            self.refusals.labels(reason=reason)
        for queue, reason in product(ADMISSIONS, REJECTIONS):
            self.rejections.labels(queue=queue, reason=reason)
        for queue, when in product(QUEUES, CANCELLATIONS):
            self.cancellations.labels(queue=queue, when=when)
        for queue in QUEUES:
            self.out_of_memory_splits.labels(queue=queue)
        for stage in STAGES:
            self.stage_duration_seconds.labels(stage=stage)
        for result in FEATURE_RESULTS:
            self.style_features.labels(result=result)
