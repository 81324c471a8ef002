"""``sim-rl list``: simulators and their tasks."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import click

from sim_rl_plugin import registry
from sim_rl_plugin.errors import UserError


@click.command("list")
@click.option("--sim", "simulator", metavar="NAME", help="Only this simulator.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_tasks(simulator: str | None, as_json: bool) -> None:
    """List simulators, whether they are installed, and their tasks."""
    names = registry.names("adapters") if simulator is None else [registry.get_entry("adapters", simulator).name]
    report = [_describe(name) for name in names]
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for item in report:
        state = "installed" if item["installed"] else f"not installed: {item['install']}"
        state = state if item["installed"] or item["missing"] else "cannot be used"
        click.echo(f"{item['name']}  ({state})  {item['summary']}".rstrip())
        if item["problem"]:
            click.echo(f"  {item['problem']}")
        for task in item["tasks"]:
            click.echo(f"  {task}")
    if not report:
        click.echo("no simulator is plugged in (`sim-rl plugins` says what was found)")


def _describe(name: str) -> dict[str, Any]:
    """Return one simulator's entry; whatever is wrong with it is told in it."""
    item: dict[str, Any] = {"name": name, "summary": "", "installed": False, "missing": [], "install": ""}
    problem, tasks = "", []
    try:
        entry = registry.get_entry("adapters", name)
        item["summary"], item["missing"] = entry.summary, registry.missing_requirements(entry)
        item["installed"] = not item["missing"]
        item["install"] = registry.install_command(entry)
        if item["installed"]:
            # Simulators greet whoever imports them, which belongs neither between the tasks nor into JSON.
            with contextlib.redirect_stdout(sys.stderr):
                tasks = registry.load_tasks(name)
    except UserError as error:
        problem = str(error)
    except (Exception, SystemExit) as error:
        # One simulator that cannot tell its tasks must not hide the others.
        problem = f"its tasks cannot be listed: {type(error).__name__}: {error}"
    return {**item, "problem": problem, "tasks": tasks}
