"""What a run's picture says, for Prometheus: read when the scheduler's `/metrics` is asked for.

Names begin with `staffa_`, amounts are in base units (seconds, bytes, trials), sums that only grow end in
`_total`. Every sample is labelled with its campaign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from staffa.views.dashboard.page import SPENT
from staffa.views.overview import readable

Facts = Mapping[str, Any]
Samples = Iterable[tuple[tuple[str, ...], float]]
"""Labels (without the campaign), and the value."""

KEY = "staffa"


def _each(name: str) -> Callable[[Facts], Samples]:
    """A mapping of the figures: its keys are the label."""
    return lambda one: [((str(word),), count) for word, count in (one["figures"].get(name) or {}).items()]


def _one(name: str) -> Callable[[Facts], Samples]:
    """A number of the figures, where it is known."""
    return lambda one: [((), float(one["figures"][name]))] if one["figures"].get(name) is not None else []


def _batches(one: Facts) -> Samples:
    return [((word,), one["figures"][word]) for word in ("flying", "waiting", "retrying") if word in one["figures"]]


def _lagging(one: Facts) -> Samples:
    found = one["figures"].get("lagging") or {}
    return [((word,), found[word]) for word in ("slow", "stuck") if word in found]


def _parts(one: Facts) -> Samples:
    figures = one["figures"]
    if "parts" not in figures or "sealed" not in figures:
        return []
    return [(("sealed",), figures["sealed"]), (("open",), figures["parts"] - figures["sealed"])]


def _workers(one: Facts) -> Samples:
    counts: dict[str, int] = {}
    for worker in one["workers"]:
        counts[worker["pool"] or ""] = counts.get(worker["pool"] or "", 0) + 1
    return [((pool,), count) for pool, count in counts.items()]


def _events(*names: str) -> Callable[[Facts], Samples]:
    return lambda one: [((), sum(one["events"].get(name, 0) for name in names))]


def _of(name: str) -> Callable[[Facts], Samples]:
    return lambda one: [((str(word),), amount) for word, amount in one[name].items()]


GAUGES: tuple[tuple[str, str, tuple[str, ...], Callable[[Facts], Samples]], ...] = (
    ("staffa_trials", "Trials by state.", ("state",), _each("states")),
    ("staffa_settled_trials", "Settled trials by outcome.", ("outcome",), _each("outcomes")),
    ("staffa_trials_per_second", "Trials settled a second, over the last half minute.", (), _one("rate")),
    ("staffa_remaining_seconds", "Time until all trials are settled, at that pace.", (), _one("eta")),
    ("staffa_batches", "Batches that are not settled, by what becomes of them.", ("state",), _batches),
    ("staffa_lagging_batches", "Batches in flight that take much longer than their like.", ("state",), _lagging),
    ("staffa_parts", "Parts of the archive.", ("state",), _parts),
    ("staffa_workers", "Workers that are there, by pool.", ("pool",), _workers),
    ("staffa_paused", "Whether the run waits for room on the disk (0 or 1).", (), _one("paused")),
    ("staffa_over", "Whether the driver has left (0 or 1).", (), lambda one: [((), float(one["over"]))]),
    ("staffa_reported_timestamp_seconds", "When the driver reported last.", (), lambda one: [((), one["at"])]),
)
COUNTERS: tuple[tuple[str, str, tuple[str, ...], Callable[[Facts], Samples]], ...] = (
    ("staffa_batch_seconds", "Time batches spent, by kind.", ("kind",), _of("seconds")),
    ("staffa_written_bytes", "Bytes of shards written, compressed.", (), lambda one: [((), one["written"])]),
    ("staffa_summing_seconds", "Time the driver took for what stands here.", (), lambda one: [((), one["spent"])]),
    ("staffa_batches_settled", "Batches that were committed.", (), _events("batch_settled")),
    ("staffa_batches_lost", "Batches that did not come back.", ("charge",), _of("lost")),
    ("staffa_retries", "Times that trials of a batch were planned to be tried again.", (), _events("retry_planned")),
    ("staffa_workers_left", "Workers that left.", ("departure",), _of("left")),
    (
        "staffa_failed_tries",
        "Tries of trials that brought no data.",
        ("outcome",),
        lambda one: [((found["outcome"],), found["tries"]) for found in one["failures"]],
    ),
)


class Collector:
    """Reads the pictures of all schedulers of this process."""

    def __init__(self) -> None:
        self.schedulers: WeakSet[Any] = WeakSet()
        self.registered = False

    def describe(self) -> Iterator[Metric]:
        """What it may yield; asked when it is registered."""
        yield from self._families(())

    def collect(self) -> Iterator[Metric]:
        pictures = [one for scheduler in self.schedulers for one in readable(scheduler.task_metadata.get(KEY, {}))]
        yield from self._families(pictures)

    def _families(self, pictures: Iterable[Facts]) -> Iterator[Metric]:
        found = list(pictures)
        info = InfoMetricFamily("staffa_run", "The run that reports.", labels=["campaign"])
        for one in found:
            told = {name: str(one["run"].get(name, "")) for name in ("run_id", "run_hash", "host", "staffa")}
            info.add_metric([one["campaign"]], told)
        yield info
        for kind, families in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, help_text, labels, read in families:
                family = kind(name, help_text, labels=["campaign", *labels])
                for one in found:
                    for words, value in read(one):
                        family.add_metric([one["campaign"], *words], value)
                yield family
        yield CounterMetricFamily("staffa_page_seconds", "Time the Campaign page took of the scheduler.", SPENT.seconds)
        yield CounterMetricFamily("staffa_page_looks", "Times it was brought up to date.", SPENT.looks)


_COLLECTOR = Collector()


def measured(scheduler: Any) -> None:
    """Read this scheduler's pictures, too, whenever somebody asks for the metrics of this process."""
    if not _COLLECTOR.registered:
        _COLLECTOR.registered = True
        REGISTRY.register(_COLLECTOR)
    _COLLECTOR.schedulers.add(scheduler)
