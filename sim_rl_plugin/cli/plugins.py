"""``sim-rl plugins``: who is plugged in, what they add, and what went wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from sim_rl_plugin import registry
from sim_rl_plugin.plugins import get_manager


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List plugins with versions, what they add, and what failed.

    SIM_RL_PLUGINS, a comma-separated list of their names, restricts which ones are loaded; empty
    loads none but the built-in one.
    """
    report = describe_plugins()
    click.echo(json.dumps(report, indent=2) if as_json else _as_text(report))


def describe_plugins() -> dict[str, Any]:
    """Return plugins, entries, duplicates and failures in plain data, importing no entry's target."""
    manager = get_manager()
    entries: dict[str, list[dict[str, Any]]] = {info.name: [] for info in manager.plugins}
    for kind in registry.KINDS:
        for owned in registry.owned_entries(kind):
            entry = owned.entry
            entries[owned.owner].append(
                {
                    "kind": registry.KINDS[kind],
                    "name": entry.name,
                    "target": entry.target,
                    "summary": entry.summary,
                    "missing": registry.missing_requirements(entry),
                    "extra": entry.extra,
                }
            )
    return {
        "plugins": [{**dataclasses.asdict(info), "entries": entries[info.name]} for info in manager.plugins],
        "duplicates": [
            {"kind": registry.KINDS[kind], "name": name, "plugins": owners}
            for kind, name, owners in registry.duplicates()
        ],
        "failures": [dataclasses.asdict(failure) for failure in manager.failures],
        "skipped": manager.skipped,
    }


def _as_text(report: dict[str, Any]) -> str:
    lines = []
    for plugin in report["plugins"]:
        origin = " ".join(part for part in (plugin["distribution"], plugin["version"]) if part)
        lines.append(f"{plugin['name']}  ({origin or plugin['module']})")
        for entry in plugin["entries"]:
            missing = f"  [needs {', '.join(entry['missing'])}]" if entry["missing"] else ""
            lines.append(f"  {entry['kind']:<11} {entry['name']:<16} {entry['summary']}{missing}".rstrip())
    for duplicate in report["duplicates"]:
        owners = " and ".join(duplicate["plugins"])
        lines.append(f"duplicate: the {duplicate['kind']} {duplicate['name']!r} is claimed by {owners}")
    lines += [f"failed: {item['plugin']}, {item['where']}: {item['message']}" for item in report["failures"]]
    if report["skipped"]:
        lines.append(f"left out by SIM_RL_PLUGINS: {', '.join(report['skipped'])}")
    return "\n".join(lines)
