"""An inspection of a store as one HTML page that needs nothing else."""

from mome_tools.inspect_page.page import render_page

__all__ = ["render_page"]
