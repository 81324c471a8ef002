"""``sim-rl checkpoint``: what a checkpoint is, whether it is whole, and files that others load."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim_rl_plugin.checkpoint_manifest import read_digest, read_manifest
from sim_rl_plugin.cli import options
from sim_rl_plugin.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table


@click.group("checkpoint")
def checkpoint() -> None:
    """Look at checkpoints, verify and convert them."""


@checkpoint.command("show")
@options.run_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON; of a file the whole manifest, with all settings.")
def show(run: Path, as_json: bool) -> None:
    """Show what RUN is: a checkpoint, or a run folder, whose checkpoints are listed."""
    if run.is_dir():
        rows = [_summary(path) for path in _checkpoints_in(run)]
        if as_json:
            click.echo(json.dumps(rows, indent=2))
        else:
            _print(_list_of(rows))
        return
    manifest = read_manifest(run)
    if manifest is None:
        manifest = _without_manifest(run)
    if as_json:
        click.echo(json.dumps({"file": str(run), "sha256": read_digest(run), **manifest}, indent=2))
    else:
        _print(_table_of(run, manifest))


@checkpoint.command("verify")
@options.run_argument
def verify(run: Path) -> None:
    """Read every checkpoint of RUN, a run folder or a file, and say which are whole.

    The exit status is 1 if one is not.
    """
    from sim_rl_plugin.checkpoint import read_checkpoint

    bad = 0
    for path in _checkpoints_in(run) if run.is_dir() else [run]:
        try:
            read_checkpoint(path)
            kind = "" if read_digest(path) else " (no manifest: it has no sha256)"
            click.echo(f"ok   {path}{kind}")
        except UserError as error:
            bad += 1
            click.echo(f"bad  {path}: {error}")
    if bad:
        raise click.exceptions.Exit(1)


@checkpoint.command("convert")
@click.argument("old", type=options.FILE)
@click.argument("new", type=options.FILE)
@click.option(
    "--to",
    "form",
    type=click.Choice(["sim_rl", "rsl_rl"]),
    default="sim_rl",
    show_default=True,
    help="With a manifest, and what only sim-rl reads; or without both, as rsl_rl 5.x writes it.",
)
@options.trust_option
def convert(old: Path, new: Path, form: str, trust: bool) -> None:
    """Write the checkpoint OLD of any release, ours or rsl_rl's, to the file NEW, which must not exist."""
    from sim_rl_plugin.checkpoint import load_checkpoint, plain_parts, save_checkpoint

    if new.exists():
        raise UserError(f"{new} exists: choose another name")
    contents, left_out = plain_parts(load_checkpoint(old, trust=trust))
    if form == "rsl_rl":
        contents.pop("sim_rl", None)
    save_checkpoint(new, contents, with_manifest=form == "sim_rl")
    for key in left_out:
        click.echo(f"left out: {key}, which is more than tensors and plain data")
    click.echo(f"written: {new}")


def _checkpoints_in(folder: Path) -> list[Path]:
    """Return the numbered checkpoints and the best one.

    Raises:
        UserError: There are none.
    """
    from sim_rl_plugin.checkpoint import BEST_FILE, numbered_checkpoints

    paths = [*numbered_checkpoints(folder).values(), *folder.glob(BEST_FILE)]
    if not paths:
        raise UserError(f"no checkpoint (model_<iteration>.pt) in {folder}")
    return paths


def _summary(path: Path) -> dict[str, Any]:
    """Return a checkpoint's row of the list."""
    row: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size}
    try:
        manifest = read_manifest(path)
    except UserError as error:
        return {**row, "state": "damaged", "problem": str(error)}
    if manifest is None:
        return {**row, "state": "no manifest"}
    evaluated = (manifest.get("evaluation") or {}).get("mean_return")
    return {
        **row,
        "iteration": manifest.get("iteration"),
        "written": manifest.get("written"),
        "mean_return": evaluated,
        "state": "ok",
    }


def _without_manifest(path: Path) -> dict[str, Any]:
    """Return what can be told of a file that has no manifest; it must be read for that."""
    from sim_rl_plugin.checkpoint import load_checkpoint
    from sim_rl_plugin.checkpoint_manifest import describe

    found = describe(load_checkpoint(path))
    return {key: value for key, value in found.items() if key not in ("written", "versions", "format")}


def _list_of(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("file", "iteration", "written", "return", "size"):
        table.add_column(heading, justify="left" if heading in ("file", "written") else "right", no_wrap=True)
    table.add_column("state")
    for row in rows:
        mean = row.get("mean_return")
        table.add_row(
            row["file"],
            str(row.get("iteration", "")),
            _local_time(row.get("written")),
            "" if mean is None else f"{mean:.1f}",
            _size(row["bytes"]),
            row["state"],
        )
    return table


def _table_of(path: Path, manifest: dict[str, Any]) -> Table:
    from rich.table import Table

    digest = read_digest(path)
    rows = {
        "file": f"{path} ({_size(path.stat().st_size)})",
        "sha256": digest or "none: the file has no manifest",
        "written": _local_time(manifest.get("written")),
        "iteration": str(manifest.get("iteration", "")),
        "training": _training(manifest.get("config") or {}),
        "evaluation": _evaluation(manifest.get("evaluation")),
        "models": ", ".join(f"{name} ({count:,} values)" for name, count in manifest.get("models", {}).items()),
        **_layout(manifest.get("layout")),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _training(config: dict[str, Any]) -> str:
    algorithm = (config.get("algorithm") or {}).get("class_name")
    place = " on ".join(str(config[key]) for key in ("task", "simulator") if config.get(key))
    return ", ".join(str(part) for part in (algorithm, place) if part)


def _evaluation(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    return f"return {found['mean_return']:.1f} ± {found['std_return']:.1f}, {found['episodes']} episodes"


def _layout(layout: dict[str, Any] | None) -> dict[str, str]:
    if not layout:
        return {}
    groups = [
        f"{name} ({'x'.join(map(str, group['shape']))} {group['dtype']}){_terms(group.get('terms'))}"
        for name, group in layout.get("observations", {}).items()
    ]
    actions = f"{layout.get('num_actions', '')}{_terms(layout.get('actions'))}"
    return {"observations": "\n".join(groups), "actions": actions}


def _terms(terms: list[dict[str, Any]] | None) -> str:
    """Return the named parts of an observation group or of the actions."""
    return f": {', '.join(str(term.get('name')) for term in terms)}" if terms else ""


def _local_time(text: str | None) -> str:
    return "" if text is None else f"{datetime.datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    # Wide enough for every cell: a path or digest that is cut cannot be copied.
    console.width = max(console.width, console.measure(table).maximum)
    console.print(table)
