"""A run's report as a page: one HTML file that needs nothing else, for a person to read."""

from runner.page.render import render_run, write_page

__all__ = ["render_run", "write_page"]
