"""The entry of ``sim-rl``: sub-commands out of the registry, and errors that users can act on."""

from __future__ import annotations

import sys
import warnings
from typing import IO, Any, TextIO

import click

from sim_rl_plugin import __version__, registry
from sim_rl_plugin.errors import UserError, nearest

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shell's convention 128 + SIGINT."""


class UserFailure(click.ClickException):
    """A ``UserError`` on its way out: one message on stderr, exit status 2, no traceback."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        click.echo(f"error: {self.format_message()}", file=file or sys.stderr)


class CommandGroup(click.Group):
    """A group whose commands are the registry's, imported one by one when they are called.

    So ``sim-rl --help`` imports no torch and no simulator, and a third party's command stands
    beside ours.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return registry.names("commands")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        if cmd_name not in registry.names("commands"):
            return None
        command = registry.load("commands", cmd_name)
        if not isinstance(command, click.Command):
            raise UserError(f"the command {cmd_name!r} is no click.Command but {type(command).__name__}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' summaries, for which nothing need be imported."""
        summaries = {owned.entry.name: owned.entry.summary for owned in registry.owned_entries("commands")}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(summaries.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, or suggest another."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            guess = nearest(args[0], names)
            tail = f"did you mean {guess!r}?" if guess else f"expected one of {', '.join(names)}"
            raise click.UsageError(f"unknown command {args[0]!r}: {tail}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what the user can put right ends without a traceback."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except UserError as error:
            raise UserFailure(str(error)) from error
        except OSError as error:
            # A file that is missing, in the way, unreadable, on a full disk: the user's to put right, wherever it was.
            if error.filename is None or not error.strerror:
                raise
            raise UserFailure(f"{error.filename}: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


_default_showwarning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning that is meant for users without the line of source that raised it."""
    if category is UserWarning and file is None:
        click.echo(f"warning: {message}", err=True)
    else:
        _default_showwarning(message, category, filename, lineno, file, line)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sim-rl")
def main() -> None:
    """Train robots' policies on any simulator that is plugged in.

    `sim-rl train --task HalfCheetah` needs no config file; `sim-rl list` shows what can be trained.
    """
