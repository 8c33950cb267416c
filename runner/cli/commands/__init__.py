"""The commands, one module each, which parse, call and print; `runner.cli.app` lists them."""
