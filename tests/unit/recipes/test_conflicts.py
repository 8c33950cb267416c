"""What uv says, in one sentence: from the words of uv 0.12 itself."""

from __future__ import annotations

from runner.recipes.locking.conflicts import find_absent, find_conflict

DIRECT = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because torchvision==0.9.0 depends on torch==1.8.0 and you
      require torch==1.8.1, we can conclude that your requirements and
      torchvision==0.9.0 are incompatible.
      And because you require torchvision==0.9.0, we can conclude that your
      requirements are unsatisfiable.
"""
RANGE = """\
  ╰─▶ Because tensorflow-cpu>=2.5.0 depends on numpy>=1.19.2,<1.20.dev0 and
      you require tensorflow-cpu==2.5.0, we can conclude that you require
      numpy>=1.19.2,<1.20.dev0.
      And because you require numpy==1.21.0, we can conclude that your
      requirements are unsatisfiable.
"""
UNKNOWN = """\
  ╰─▶ Because nonexistent was not found in the package registry
      and you require nonexistent==1.0, we can conclude that your
      requirements are unsatisfiable.
"""
ONLY = """\
  ╰─▶ Because only tensorflow-probability<=0.16.0 is available and you
      require tensorflow-probability>=0.17,<0.18, we can conclude that your
      requirements are unsatisfiable.
"""


def test_two_pins_and_the_package_between() -> None:
    conflict = find_conflict(DIRECT, ["torch==1.8.1", "torchvision==0.9.0", "# a comment"])
    assert str(conflict) == ("torchvision==0.9.0 needs torch==1.8.0, and torch==1.8.1 excludes it")


def test_a_range_and_a_pin() -> None:
    conflict = find_conflict(RANGE, ["tensorflow-cpu==2.5.0", "numpy==1.21.0"])
    assert str(conflict) == (
        "tensorflow-cpu==2.5.0 needs numpy>=1.19.2,<1.20.dev0, and numpy==1.21.0 excludes it"
    )


def test_a_pin_within_the_range_is_no_conflict() -> None:
    assert find_conflict(RANGE, ["tensorflow-cpu==2.5.0", "numpy==1.19.5"]) is None


def test_a_package_that_is_not_there() -> None:
    assert find_conflict(UNKNOWN, ["nonexistent==1.0"]) is None
    absent = find_absent(UNKNOWN)
    assert absent is not None and absent.name == "nonexistent" and "no index" in str(absent)
    only = find_absent(ONLY)
    assert only is not None and str(only) == "there is only tensorflow-probability<=0.16.0"
    assert find_absent("anything else") is None
