"""Engines: where stages run. Both install the same locks and give the same bytes."""

from runner.engines.base import Ended, Engine, Progress, Volume

__all__ = ["Ended", "Engine", "Progress", "Volume"]
