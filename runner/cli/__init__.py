"""The command line: what is typed and what is shown. What it does is elsewhere."""
