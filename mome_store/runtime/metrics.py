"""The counters of an expert cache in Prometheus' text format.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Mapping

_COUNTERS = {
    "leases": "Leases given out.",
    "hits": "Experts of leases that were in a slot.",
    "joins": "Experts of leases that were on their way into a slot.",
    "misses": "Experts of leases that had to be fetched.",
    "evictions": "Records that were given up for others.",
    "loads_failed": "Records that could not be read or were not what was committed.",
    "records_prefetched": "Loads begun ahead of a lease.",
    "records_checked": "Records whose trailer and checksum were looked at.",
    "bytes_from_memory": "Bytes of records that came out of the page cache.",
    "bytes_from_disk": "Bytes of records that came from the disk.",
    "bytes_staged": "Bytes of records copied from staging buffers to the device.",
}
_GAUGES = {
    "leases_live": "Leases not released yet.",
    "queue_depth": "Loads under way.",
    "slots": "Records that there is room for.",
    "slots_free": "Slots that hold nothing.",
    "slots_held": "Slots that are leased, pinned or loading.",
    "experts": "Experts in the snapshot that is served.",
    "bytes_mapped": "Bytes of shards that are mapped.",
}


def prometheus_text(stats: Mapping[str, int | float | str | None]) -> str:
    """`ExpertCache.stats` as metrics `mome_cache_...` with the device and the policy as labels."""
    labels = f'device="{stats["device"]}",policy="{stats["policy"]}"'
    lines: list[str] = []

    def add(name: str, kind: str, text: str, samples: Mapping[str, int | float | str | None]) -> None:
        lines.extend((f"# HELP mome_cache_{name} {text}", f"# TYPE mome_cache_{name} {kind}"))
        lines.extend(f"mome_cache_{sample} {value}" for sample, value in samples.items())

    for name, text in _COUNTERS.items():
        add(f"{name}_total", "counter", text, {f"{name}_total{{{labels}}}": stats[name]})
    for name, text in _GAUGES.items():
        if stats[name] is not None:
            add(name, "gauge", text, {f"{name}{{{labels}}}": stats[name]})
    stalls = {
        f'stall_seconds{{{labels},quantile="0.5"}}': stats["stall_p50_seconds"],
        f'stall_seconds{{{labels},quantile="0.99"}}': stats["stall_p99_seconds"],
        f"stall_seconds_sum{{{labels}}}": stats["stall_seconds"],
        f"stall_seconds_count{{{labels}}}": stats["leases"],
    }
    add("stall_seconds", "summary", "How long leases waited for their records.", stalls)
    return "\n".join(lines) + "\n"
