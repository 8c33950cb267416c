"""A report as a page: one self-contained HTML file, for a person to read."""
