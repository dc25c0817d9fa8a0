"""The group ``memprof``; only the module of the chosen command is imported."""

from __future__ import annotations

import importlib
import shlex

import click

from memprof import __version__
from memprof.errors import UsageError, did_you_mean

COMMANDS = ("estimate", "verify", "check", "snapshot", "report", "diff", "models", "devices", "env")
_COMMAND_LINE = "memprof.command_line"


class LazyGroup(click.Group):
    """Commands by module name, each exposing ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"memprof.commands.{cmd_name}").command
        command.name = cmd_name
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_COMMAND_LINE] = shlex.join(["memprof", *args])
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS) or f"the commands are {', '.join(COMMANDS)}"
            raise UsageError(f"{args[0]!r} is not a command", hint)
        return super().resolve_command(ctx, args)


def command_line(ctx: click.Context) -> str:
    """What was typed, quoted so that a shell reads it again."""
    text: str = ctx.meta[_COMMAND_LINE]
    return text


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="memprof", message="%(prog)s %(version)s")
def cli() -> None:
    """How much GPU memory a PyTorch or Hugging Face step takes, why, and what to change so that it fits."""
