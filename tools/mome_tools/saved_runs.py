"""Runs of an evaluation that an earlier call saved: one evaluation can be made in parts, a system at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mome_store.errors import MomeError
from mome_store.evaluation import SystemResult


def with_saved_runs(
    results: Sequence[SystemResult], path: Path, head: Mapping[str, Any], order: Sequence[str]
) -> list[SystemResult]:
    """`results` and, of other systems and seeds, what `path` holds, systems in `order`.

    path: JSON with `runs` and the fields of `head`; runs that were made under another head are left out. Raises
    MomeError for a file that is none of these.
    """
    new = {(result.name, result.seed) for result in results}
    kept = [run for run in _saved(path, head) if (run.name, run.seed) not in new]
    places = {name: place for place, name in enumerate(order)}
    return sorted([*kept, *results], key=lambda run: (places.get(run.name, len(places)), run.seed))


def _saved(path: Path, head: Mapping[str, Any]) -> list[SystemResult]:
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
        if {name: content[name] for name in head} != json.loads(json.dumps(head)):
            return []
        return [SystemResult.from_json(run) for run in content["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise MomeError(f"{path}: is no file of this evaluation ({error!r}); move it away") from error
