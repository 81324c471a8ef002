"""``sim-rl eval`` of runs and exported files, in the simulator they were trained in and in others."""

import json
import shutil

import pytest
import torch

BRIEF = ("--no-video", "--eval-episodes", 0, "--max-iterations", 1)


@pytest.fixture
def run(install, sim_rl, tmp_path, monkeypatch):
    """A run of one iteration, exported as ONNX and TorchScript."""
    install("lab")
    monkeypatch.chdir(tmp_path)
    result = sim_rl("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", *BRIEF, "clip_actions=1.5")
    assert result.exit_code == 0, result.output
    for to in ("onnx", "torchscript", "pt2"):
        result = sim_rl(
            "export",
            "run",
            "--to",
            to,
            "--steps",
            8,
            "--output",
            {"onnx": "p.onnx", "torchscript": "p.pt", "pt2": "p.pt2"}[to],
        )
        assert result.exit_code == 0, result.output
    return tmp_path / "run"


def returns(sim_rl, *arguments: object) -> list[float]:
    result = sim_rl("eval", *arguments, "--episodes", 4, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["returns"]


@pytest.mark.parametrize("simulator", ["lab", "other"])
def test_a_file_is_evaluated_as_its_run(run, sim_rl, simulator):
    expected = returns(sim_rl, run, "--sim", simulator)
    shutil.rmtree(run)
    for file in ("p.onnx", "p.pt"):
        assert returns(sim_rl, file, "--sim", simulator) == pytest.approx(expected, abs=1e-4)
    assert returns(sim_rl, "p.onnx") == pytest.approx(expected, abs=1e-4)  # both simulators are the same


def test_a_report_compares_with_where_it_was_trained(run, sim_rl):
    result = sim_rl("eval", "p.onnx", "--sim", "other", "--episodes", 6, "--report", "gap.json")
    assert result.exit_code == 0, result.output
    assert "nothing drifts apart" in result.stdout and "the returns differ by 0.0 standard errors" in result.stdout
    gap = json.loads((run.parent / "gap.json").read_text())
    assert gap["places"] == ["Reach on lab", "Reach on other"]
    assert gap["episodes"][0] == gap["episodes"][1]
    assert len(gap["quantities"]) == 3 + 2 + 1
    assert sim_rl("eval", run, "--sim", "other", "--report", "gap.md").exit_code == 0
    assert (run.parent / "gap.md").read_text().startswith("# Reach on lab, and Reach on other")


def test_another_robot_meets_by_a_map(run, sim_rl):
    refused = sim_rl("eval", "p.onnx", "--task", "Crawl")
    assert refused.exit_code == 2 and "observation group 'policy' has size 5, the policy reads 3" in refused.stderr
    (run.parent / "map.yaml").write_text("observations: {policy: {group: polcy}}")
    result = sim_rl("eval", "p.onnx", "--task", "Crawl", "--map", "map.yaml")
    assert result.exit_code == 2 and "observations.policy.group: 'polcy': did you mean 'policy'" in result.stderr
    (run.parent / "map.yaml").write_text("{}")
    assert returns(sim_rl, "p.onnx", "--map", "map.yaml") == pytest.approx(returns(sim_rl, run), abs=1e-4)
    assert returns(sim_rl, run, "--map", "map.yaml") == returns(sim_rl, run)


def test_a_file_of_somebody_elses_takes_the_group_policy(run, sim_rl):
    torch.jit.script(torch.nn.Linear(3, 2)).save(str(run.parent / "theirs.pt"))
    result = sim_rl("eval", "theirs.pt")
    assert "theirs.pt does not say which task it was trained on: say --sim NAME and --task NAME" in result.stderr
    there = ("theirs.pt", "--sim", "lab", "--task", "Reach")
    assert len(returns(sim_rl, *there)) == 4
    assert "--report: theirs.pt does not say where it was trained" in sim_rl("eval", *there, "--report", "g.md").stderr
    (run.parent / "map.yaml").write_text("{}")
    result = sim_rl("eval", "theirs.pt", "--sim", "lab", "--task", "Reach", "--map", "map.yaml")
    assert "--map: theirs.pt does not tell the terms that the policy reads" in result.stderr


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"actions": {"size": 2}, "observations": 5}', '{"actions": 5}'])
def test_a_description_of_another_kind_is_one_line(run, sim_rl, text):
    import onnx

    file = onnx.load(str(run.parent / "p.onnx"))
    onnx.helper.set_model_props(file, {"sim_rl": text})
    onnx.save(file, str(run.parent / "odd.onnx"))
    result = sim_rl("eval", "odd.onnx")
    assert (result.exit_code, result.stderr.startswith("error: odd.onnx")) == (2, True), result.output
    assert len(result.stderr.splitlines()) == 1


def test_what_is_wrong_is_one_line(run, sim_rl):
    (run.parent / "bad.onnx").write_bytes(b"nothing")
    for arguments, message in (
        (["p.pt2"], "is a program of torch.export: give the run, or an ONNX or TorchScript file"),
        (["p.onnx", "--best"], "is one policy, of which there is no best"),
        (["bad.onnx"], "is no ONNX graph"),
        (["gone.onnx"], "no run folder or checkpoint at gone.onnx"),
        (["p.onnx", "--report", "gap.txt"], "ends with .md or .json"),
        (["p.onnx", "--map", "gone.yaml"], "gone.yaml: there is no such file"),
    ):
        result = sim_rl("eval", *arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
