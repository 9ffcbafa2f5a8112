"""`mome evaluate`: a memory of facts beside everything else that a user could pick, on invented people."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from mome_tools.output import JsonOption, print_json, progress_bar

REAL_FACTS = 2000


def evaluate(
    facts: Annotated[int, typer.Option("--facts", min=2, help="Facts to insert, in batches of a hundred.")] = 1000,
    seeds: Annotated[
        str,
        typer.Option("--seeds", "--seed", help="Seeds with commas: all systems on the first, the main ones on all."),
    ] = "0,1,2",
    systems: Annotated[
        str | None, typer.Option("--systems", help="Names with commas; without it, all there are.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", min=1, help="Wordings asked per metric; fewer of costly systems.")
    ] = None,
    routed_questions: Annotated[
        int | None, typer.Option("--routed-questions", min=1, help="The same where a route is enough.")
    ] = None,
    trained_facts: Annotated[
        int | None, typer.Option("--trained-facts", min=2, help="Facts for systems that train the whole model.")
    ] = None,
    trained_seconds: Annotated[
        float | None, typer.Option("--trained-seconds", min=0.01, help="Training time of those, per fact.")
    ] = None,
    real_facts: Annotated[
        int | None,
        typer.Option("--real-facts", min=0, help="Airports and PCI devices to route to; 2000, or none with --systems."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Base model: a folder or hub id.")] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", metavar="E", help="Sentence encoder: a folder.")] = None,
    router: Annotated[str | None, typer.Option("--router", metavar="R", help="Router: a file or name.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", metavar="DIR", help="Write strangers.md, .json and plots there, after each system; rows stay."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ten thousand strangers: exact match, routing, false fire, retention, update, forgetting and cost, per system."""
    from mome_tools.figures import print_figures
    from mome_tools.real_sets import measure_real_sets
    from mome_tools.strangers_results import Results, parse_seeds, router_text

    chosen_seeds = parse_seeds(seeds)
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_store.evaluation import SYSTEMS, EvaluationSettings, RememberingEncoder, Workbench, check_systems
        from mome_store.evaluation import evaluate as run_evaluation
        from mome_store.modeling import Prompts, load_base_model, resolve_base_model
        from mome_store.routing import SentenceEncoder

        names = check_systems([name.strip() for name in systems.split(",")] if systems else list(SYSTEMS))
        given: dict[str, Any] = {
            "questions": questions,
            "other_questions": None if questions is None else min(questions, EvaluationSettings.other_questions),
            "slow_questions": None if questions is None else min(questions, EvaluationSettings.slow_questions),
            "routed_questions": routed_questions,
            "trained_facts": trained_facts,
            "trained_seconds_per_fact": trained_seconds,
        }
        settings = EvaluationSettings(**{name: value for name, value in given.items() if value is not None})
        source = resolve_base_model(model)
        base, tokenizer = load_base_model(source)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        with tempfile.TemporaryDirectory(prefix="mome-evaluate-") as folder:
            sentences = SentenceEncoder(encoder)
            # Another encoder has no trained router unless one is named; its gate is then the simple one.
            keys = sentences if encoder and not router else RememberingEncoder(sentences, router)
            results = Results(facts, settings, source.name, router_text(keys), save)
            prompts = Prompts(base, tokenizer)
            bench = Workbench(base, tokenizer, prompts, sentences, keys, Path(folder), settings)
            for result in run_evaluation(bench, facts, chosen_seeds, names, show):
                results.add(result)
            real = (0 if systems else REAL_FACTS) if real_facts is None else real_facts
            if real:
                show("real data", 0, real)
                for found in measure_real_sets(keys, real, chosen_seeds[0], Path(folder)):
                    results.add_real(found)
    if json:
        print_json(results.to_json())
    else:
        for table in results.tables():
            table.print()
        print_figures(results.bars())
