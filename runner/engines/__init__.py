"""Engines: where stages run. Both install the same locks and give the same bytes."""
