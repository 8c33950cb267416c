"""The command line: parsing and display; the work itself is done elsewhere."""
