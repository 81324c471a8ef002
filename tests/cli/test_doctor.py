"""``sim-rl doctor`` looks at what trainings need, and says what to fix."""

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from sim_rl_plugin import preflight
from sim_rl_plugin.cli.main import main


def test_this_machine_is_fine():
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "ok       torch: " in result.output
    assert "ok       collectives (gloo): 2 processes, 1 MB in" in result.output
    assert "ok       simulator mujoco: can be imported" in result.output
    assert "0 problems" in result.output


def test_a_problem_is_counted_and_its_remedy_told(monkeypatch: pytest.MonkeyPatch):
    found = preflight.Finding("shared memory", "problem", "1 MiB free", "start it with --shm-size=1g")
    monkeypatch.setattr("sim_rl_plugin.cli.doctor.check_everything", lambda *arguments: [found])
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "PROBLEM  shared memory: 1 MiB free", "         start it with --shm-size=1g", "1 problem",
    ]  # fmt: skip


def test_an_old_package_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "2.6.1+cu124", "numpy": "1.24.0", "mujoco": "3.3.0"}

    def version(package: str) -> str:
        if package not in versions:
            raise preflight.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(preflight.metadata, "version", version)
    findings = {finding.subject: finding for finding in preflight.check_versions()}
    assert findings["torch"].kind == "problem"
    assert findings["torch"].advice == 'pip install --upgrade "torch>=2.7"'
    assert findings["numpy"].kind == findings["mujoco"].kind == "ok"
    assert findings["tensordict"].found == "not installed"


def test_little_shared_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10 * 2**20))
    finding = preflight.check_shared_memory(tmp_path)
    assert (finding.kind, finding.found) == ("problem", f"10 MiB free in {tmp_path}")
    assert "--shm-size" in finding.advice
    assert preflight.check_shared_memory(tmp_path / "none").kind == "note"


def test_a_rendezvous_answers_or_not():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert preflight.check_rendezvous(f"127.0.0.1:{port}").kind == "note"  # reached, and nobody listens
        server.listen()
        assert preflight.check_rendezvous(f"127.0.0.1:{port}").kind == "ok"
    assert preflight.check_rendezvous("nowhere").kind == "problem"
    assert preflight.check_rendezvous("no.such.host.invalid:29400").kind == "problem"


def test_processes_that_do_not_meet_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-card")
    finding = preflight.check_collectives("gloo", 2, 10.0)
    assert finding.kind == "problem"
    assert "GLOO_SOCKET_IFNAME" in finding.advice


def test_launchers_variables_are_read(monkeypatch: pytest.MonkeyPatch):
    assert preflight.check_variables().kind == "ok"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    finding = preflight.check_variables()
    assert finding.kind == "problem"
    assert "MASTER_ADDR" in finding.found
    monkeypatch.setenv("RANK", "2")
    assert "expected a number below WORLD_SIZE=2" in preflight.check_variables().found


def test_a_card_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(preflight, "_runs", lambda command: True)
    finding = list(preflight.check_devices())[-1]
    assert finding.kind == "problem"
    assert "built for the CPU" in finding.found
