"""`mome bench`: each figure that has a bar, measured beside its peer in the same run."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure, each figure beside its peer in the same run.", no_args_is_help=True)
