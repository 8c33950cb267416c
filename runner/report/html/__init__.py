"""A run's report as a page: one HTML file that needs nothing else, for a person to read."""

from runner.report.html.render import render_run, write_page
from runner.report.html.table import render_table, write_table

__all__ = ["render_run", "render_table", "write_page", "write_table"]
