"""The experiments of `mome bench pool` as files: their tables, and a picture of the three curves."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from mome_tools.bench_pool import Experiments, Labels, Sampled
from mome_tools.results import save_results


def save_pool(found: Experiments, folder: Path) -> None:
    """Writes pool.json, pool.md and pool.png into `folder`."""
    save_results(
        "pool",
        found.figures,
        folder,
        sections=_sections(found),
        values=found.to_json(),
        picture=lambda path: _plot(found, path),
    )


def _sections(found: Experiments) -> list[str]:
    lines = [
        "## Facts per expert",
        "",
        "The same facts, one wording each, on fewer and fewer experts. Chosen: experts that act on a query, exp of the",
        "entropy of its weights.",
        "",
        "| facts | M | k | facts per expert | chosen | epochs | steps | mean loss | exact | at the bar |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {c.facts} | {c.experts} | {c.top_k} | {c.facts / c.experts:g} | {c.chosen:.1f} | {c.epochs} | {c.steps} | "
        f"{c.loss:.2g} | {c.exact:.1%} | {c.at_bar:.1%} |"
        for c in found.collisions
    ]
    lines += [
        "",
        "## Random answers",
        "",
        "| answers | facts | tokens each | epochs | steps | mean loss | at the bar |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.answers} | {each.facts} | {each.tokens:.1f} | {each.epochs} | {each.steps} | {each.loss:.2g} | "
        f"{each.at_bar:.1%} |"
        for each in found.labels
    ]
    lines += ["", "## The loss at which a fact is said", ""]
    lines += ["| loss per token | " + " | ".join(name for name, _ in _kinds(found)) + " |", "| --- | --- | --- |"]
    edges = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    for low, high in pairwise(edges):
        cells = [_share([s for s in own if low <= s.loss < high]) for _, own in _kinds(found)]
        lines.append(f"| {low:g} to {high:g} | {' | '.join(cells)} |")
    return lines


def _kinds(found: Experiments) -> list[tuple[str, list[Sampled]]]:
    """The samples of short and of long answers, each with their name."""
    kinds = []
    for length in sorted({"short" if s.tokens <= 12 else "long" for s in found.samples}, reverse=True):
        own = [s for s in found.samples if (s.tokens <= 12) == (length == "short")]
        kinds.append((f"exact samples, answers of {np.mean([s.tokens for s in own]):.1f} tokens", own))
    return kinds


def _share(samples: list[Sampled]) -> str:
    return f"{np.mean([s.exact for s in samples]):.1%} (n = {len(samples)})" if samples else ""


def _plot(found: Experiments, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(14, 4.2), layout="constrained")
    FigureCanvasAgg(picture)
    facts, labels, samples = picture.subplots(1, 3)

    published = [c for c in found.collisions if c.top_k == min(32, c.experts)]
    load = [c.facts / c.experts for c in published]
    facts.plot(load, [100 * c.exact for c in published], "o-", color="#2a7f4f", label="said exactly, %")
    facts.plot(load, [100 * c.at_bar for c in published], "s--", color="#2f5fb3", label="at the bar, %")
    facts.plot(load, [c.epochs for c in published], "^:", color="#6b7280", label="epochs (100 at most)")
    facts.set_xscale("log", base=2)
    facts.set_ylim(-3, 108)
    facts.set(title="collisions", xlabel="facts per expert")
    facts.legend(fontsize=8)

    for each, color in zip(found.labels, ("#2a7f4f", "#2f5fb3", "#b3372f"), strict=True):
        labels.plot(range(1, len(each.losses) + 1), each.losses, color=color, label=_named(each))
    labels.set_yscale("log")
    labels.set(title="random answers", xlabel="epoch", ylabel="mean loss per token, nats")
    labels.legend(fontsize=8)

    for (name, own), color in zip(_kinds(found), ("#2a7f4f", "#b3372f"), strict=False):
        loss = np.array([max(s.loss, 1e-4) for s in own])
        samples.scatter(loss, [100 * s.exact for s in own], s=4, alpha=0.25, color=color)
        curve = np.logspace(-4, 1, 100)
        tokens = np.mean([s.tokens for s in own])
        samples.plot(curve, 100 * np.exp(-tokens * curve), color=color, label=name.removeprefix("exact samples, "))
    samples.set_xscale("log")
    samples.set(title="sampling at temperature 1", xlabel="loss per token, nats", ylabel="exact samples, %")
    samples.legend(fontsize=8, title="lines: exp(-tokens x loss)", title_fontsize=8)
    picture.savefig(path, dpi=110)


def _named(labels: Labels) -> str:
    return f"{labels.answers} ({labels.tokens:.0f} tokens)"
