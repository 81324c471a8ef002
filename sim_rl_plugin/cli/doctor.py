"""``sim-rl doctor``: checks what trainings need, and says what to fix."""

from __future__ import annotations

import click

from sim_rl_plugin.preflight import Finding, check_everything

_SIGNS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


@click.command("doctor")
@click.option(
    "--nproc", type=click.IntRange(min=2), default=2, show_default=True, help="Processes that meet in a trial."
)
@click.option("--rdzv-endpoint", default="", metavar="HOST:PORT", help="Can that machine be reached from here?")
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds for each trial.")
def doctor(nproc: int, rdzv_endpoint: str, timeout_s: float) -> None:
    """Check versions, devices, collectives, rendezvous, shared memory and simulators; the status is 1 if one fails."""
    findings = []
    for finding in check_everything(nproc, rdzv_endpoint, timeout_s):
        findings.append(finding)
        _print(finding)
    problems = sum(finding.kind == "problem" for finding in findings)
    click.echo(f"{problems} problems" if problems != 1 else "1 problem")
    if problems:
        raise click.exceptions.Exit(1)


def _print(finding: Finding) -> None:
    click.echo(f"{_SIGNS[finding.kind]}  {finding.subject}: {finding.found}")
    if finding.advice:
        click.echo(f"         {finding.advice}")
