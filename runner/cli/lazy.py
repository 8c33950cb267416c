"""Commands whose modules are imported when they run: the help and a mistyped name need none."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class Group(TyperGroup):
    """A group whose help shows the whole first paragraph of each command's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for command in self.commands.values():
            # What is given as short is not shortened.
            command.short_help = (command.help or "").partition("\n\n")[0]


def make_group(help: str, cls: type[Group] = Group, *, add_completion: bool = False) -> typer.Typer:
    """Make an empty group of commands, which shows its help when it is called without one."""
    return typer.Typer(
        cls=cls,
        help=help,
        no_args_is_help=True,
        add_completion=add_completion,
        pretty_exceptions_enable=False,
        # rich's help would take three times as long to appear.
        rich_markup_mode=None,
    )


class LazyCommand(TyperCommand):
    """A command of which the name and one line of help are known; `place` is MODULE:ATTRIBUTE."""

    def __init__(self, name: str, place: str, help: str) -> None:
        super().__init__(name, help=help, short_help=help)
        self.place = place

    def load(self) -> Any:
        """Import the command's module, and return the command or the group that it defines."""
        module, attribute = self.place.split(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = make_group("")
        alone.command(self.name)(found)
        return typer.main.get_command(alone)


class LazyGroup(Group):
    """A group of lazy commands: `places` has each one's place and help, by its name."""

    places: dict[str, tuple[str, str]] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands.update(
            {name: LazyCommand(name, place, help) for name, (place, help) in self.places.items()}
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # Help and completion of names ask for a command's line only; what follows resolves it.
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
