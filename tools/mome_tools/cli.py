"""The `mome` command: which commands there are, and how an error leaves the process."""

from __future__ import annotations

import atexit
import signal
import sys

import typer

from mome_store.errors import MomeError
from mome_tools.commands import (
    ask,
    bench,
    compaction,
    doctor,
    evaluate,
    exchange,
    memorize,
    repair,
    replay,
    stores,
    strangers,
    train_router,
)
from mome_tools.output import note, show_warnings_as_notes

app = typer.Typer(
    help="A memory of trained facts for a frozen language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(memorize.memorize)
app.command()(ask.ask)
app.command("eval")(evaluate.evaluate)
app.command()(strangers.evaluate)
app.command()(stores.forget)
app.command()(stores.inspect)
app.command()(stores.verify)
app.command()(repair.repair)
app.command()(compaction.compact)
app.command()(compaction.gc)
app.command()(exchange.export)
app.command("import")(exchange.import_)
app.command()(exchange.dump)
app.command()(doctor.doctor)
app.command()(replay.replay)
app.command()(train_router.train_router)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point. Exit code 0, 1 for an error (one line on stderr), 2 for wrong usage, 130 for Ctrl-C."""
    show_warnings_as_notes()
    # The answer is out by then: a Ctrl-C while the interpreter shuts down must not turn it into a failure.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        app()
    except MomeError as error:
        note(f"error: {error}")
        sys.exit(1)
    except OSError as error:
        note(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
