"""A run's report as a page: one HTML file that needs nothing else, for a person to read."""

from runner.page.render import render_run, write_page
from runner.page.table import render_table, write_table

__all__ = ["render_run", "render_table", "write_page", "write_table"]
