"""Counters for Prometheus, under the names that vLLM gives them.

Owns the counters. They are fed from the events of requests, in the front's thread.
"""

from __future__ import annotations

import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from .events import Done, Event, Failed, Finish, Started, Step

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The counters of a server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        model = ("model_name",)

        def counter(name, words, labels=model):
            return Counter(f"vllm:{name}", words, labels, registry=self.registry)

        def histogram(name, words, buckets=LATENCIES):
            return Histogram(
                f"vllm:{name}", words, model, registry=self.registry, buckets=buckets
            )

        def gauge(name, words):
            return Gauge(f"vllm:{name}", words, model, registry=self.registry)

        self.running = gauge("num_requests_running", "Requests being answered.")
        self.waiting = gauge("num_requests_waiting", "Requests in the queue.")
        self.cache_usage = gauge(
            "kv_cache_usage_perc", "Share of the context that is kept in a cache."
        )
        self.queries = counter("prefix_cache_queries", "Prompt tokens looked up.")
        self.hits = counter("prefix_cache_hits", "Prompt tokens not computed again.")
        self.prompt = counter("prompt_tokens", "Prompt tokens.")
        self.generated = counter("generation_tokens", "Tokens of answers.")
        self.success = counter(
            "request_success", "Answers.", ("model_name", "finished_reason")
        )
        self.drafts = counter("spec_decode_num_drafts", "Drafted blocks.")
        self.draft_tokens = counter("spec_decode_num_draft_tokens", "Drafted tokens.")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Accepted drafts.")
        self.accepted_at = counter(
            "spec_decode_num_accepted_tokens_per_pos",
            "Accepted drafts by position in the block, from 0.",
            ("model_name", "position"),
        )
        self.first_token = histogram(
            "time_to_first_token_seconds", "From the request to its first token."
        )
        self.gap = histogram(
            "inter_token_latency_seconds", "Between two tokens of an answer.", GAPS
        )
        self.total = histogram(
            "e2e_request_latency_seconds", "From the request to its end."
        )
        self.queued = histogram("request_queue_time_seconds", "In the queue.")
        self.prefill = histogram("request_prefill_time_seconds", "Prefill.")
        self.decode = histogram("request_decode_time_seconds", "After the prefill.")

    def text(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self.registry)


class RequestMetrics:
    """Feeds the counters with the events of one request.

    Args:
        metrics: The server's counters.
        model: The served name of the model.
    """

    def __init__(self, metrics: Metrics, model: str):
        self.metrics, self.model = metrics, model
        self.begun = time.monotonic()
        self.started: float | None = None
        self.first: float | None = None
        self.ended = False

    def observe(self, event: Event) -> None:
        """Count an event."""
        now, metrics, model = time.monotonic(), self.metrics, self.model
        match event:
            case Started(prompt_tokens, cached_tokens) if self.started is None:
                self.started = now
                metrics.queued.labels(model).observe(now - self.begun)
                metrics.queries.labels(model).inc(prompt_tokens)
                metrics.hits.labels(model).inc(cached_tokens)
                metrics.prompt.labels(model).inc(prompt_tokens)
            case Step() if self.first is None and self.started is not None:
                self.first = now
                metrics.first_token.labels(model).observe(now - self.begun)
                metrics.prefill.labels(model).observe(now - self.started)
            case Finish(reason=reason):
                metrics.success.labels(model, reason).inc()
            case Done(usage, summary):
                self.ended = True
                self._done(usage.completion_tokens, summary, now)
            case Failed():
                self.ended = True
                metrics.success.labels(model, "error").inc()
                metrics.total.labels(model).observe(now - self.begun)

    def _done(self, tokens, summary, now):
        metrics, model = self.metrics, self.model
        metrics.generated.labels(model).inc(tokens)
        metrics.total.labels(model).observe(now - self.begun)
        if self.first is not None:
            metrics.decode.labels(model).observe(now - self.first)
            if tokens > 1:
                metrics.gap.labels(model).observe((now - self.first) / (tokens - 1))
        blocks = summary.get("rounds", 0) - summary.get("parked_rounds", 0)
        metrics.drafts.labels(model).inc(blocks)
        metrics.draft_tokens.labels(model).inc(summary.get("drafted", 0))
        metrics.accepted.labels(model).inc(summary.get("accepted", 0))
        for i, kept in enumerate(summary.get("accepted_at", ())):
            metrics.accepted_at.labels(model, str(i)).inc(kept)

    def abort(self) -> None:
        """Count a request whose client has gone before its end."""
        if self.ended:
            return
        self.metrics.success.labels(self.model, "abort").inc()
