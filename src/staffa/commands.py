"""Words of the command line that plug-ins add (family `commands`).

`staffa --help` names them from metadata alone; a plug-in is imported when its word is used. One that
cannot be imported fails by itself, and none takes the place of a word of Staffa's own.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from staffa.experiment.plugins import Offer, load, offers


class Commands(TyperGroup):
    """The words of `staffa`: its own, then those of plug-ins, which are looked for where its own do not do."""

    def list_commands(self, ctx: Any) -> list[str]:
        self._extend()
        return list(super().list_commands(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args or args[0] not in self.commands:
            self._extend()
        return super().resolve_command(ctx, args)

    def _extend(self) -> None:
        for offer in offers("commands"):
            if offer.name not in self.commands:
                self.commands[offer.name] = _Later(offer)


class _Later(TyperCommand):
    """Stands for a plug-in's command until somebody uses it."""

    def __init__(self, offer: Offer) -> None:
        words = f"By {offer.distribution} {offer.version}." if offer.distribution else "Registered here."
        super().__init__(offer.name, help=words, short_help=words)

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself, which is imported now."""
        real = typer.main.get_command(_app(load("commands", str(self.name), f"staffa {self.name}")))
        return real.make_context(info_name, args, parent=parent, **extra)


def help_of(found: Any) -> str:
    """The help page of a plug-in's command."""
    command = typer.main.get_command(_app(found))
    with command.make_context("command", [], resilient_parsing=True) as context:
        return str(command.get_help(context))


def _app(found: Any) -> typer.Typer:
    if isinstance(found, typer.Typer):
        return found
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(found)
    return app
