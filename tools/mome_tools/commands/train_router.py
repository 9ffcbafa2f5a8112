"""`mome train-router`: the router's recipe, for another encoder or with one's own facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mome_tools.encoders import named_encoder
from mome_tools.output import JsonOption, print_fields, print_json, progress_bar


def train_router(
    out: Annotated[Path, typer.Argument(metavar="ROUTER", help="The file to write.")],
    facts_file: Annotated[
        Path | None,
        typer.Option("--facts", metavar="FACTS.jsonl", help="Your own facts: the gate learns from them as well."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="E",
            help="Sentence encoder: a folder, else the default one; or `base` for the base model's hidden states "
            "(`base:N`: layer N).",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="The base model of `--encoder base`: a folder or hub id.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="R", help="Keep this router's projection: the new gate then fits the stores it serves."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 1,
    false_fire: Annotated[
        float, typer.Option("--false-fire", min=0.0, max=1.0, help="Report the threshold for this share.")
    ] = 0.01,
    json: JsonOption = False,
) -> None:
    """Train projection and gate from scratch: some ten minutes on two cores."""
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_store.routing import HiddenStateEncoder
        from mome_store.routing.trained import load_router
        from mome_store.routing.training import OwnFact, RouterSettings
        from mome_store.routing.training import train_router as train
        from mome_store.tuning.facts import load_facts

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        facts = [] if facts_file is None else load_facts(facts_file)
        own = [OwnFact(fact.wordings, known=fact.answer is not None) for fact in facts]
        tokens = named_encoder(encoder, model)
        # Byte-pair vocabularies have their commonest words, which relations are named by, before the place where
        # those of BERT begin.
        start = 0 if isinstance(tokens, HiddenStateEncoder) else RouterSettings.vocabulary_start
        router = train(
            tokens,
            RouterSettings(seed=seed, vocabulary_start=start),
            show,
            keep=None if keep is None else load_router(keep),
            facts=own,
        )
    router.save(out)
    result = {
        "path": str(out),
        "fingerprint": router.fingerprint,
        "threshold": router.gate.threshold(false_fire),
        "negatives": {kind: len(values) for kind, values in router.gate.negatives.items()},
    }
    if json:
        print_json(result)
    else:
        print_fields(result)
