"""Every kind of policy in every format passes the gate, a file that acts otherwise does not, and what is inside."""

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_configs import CNN, GAUSSIAN, GRU, MLP, CameraEnv, distillation_cfg, ppo_cfg_with

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.export import SUFFIXES, export_policy_of, exporting, formats
from sim_rl_plugin.export.exporting import check_file
from sim_rl_plugin.export.gate import copied_to_cpu, record, record_and_return
from sim_rl_plugin.onnx_policy import OnnxPolicy
from sim_rl_plugin.runners import OnPolicyRunner

ROOT = Path(__file__).parents[2]
MODELS = {"mlp": MLP, "gru": GRU, "lstm": {**GRU, "rnn_type": "lstm", "rnn_num_layers": 2}, "cnn": CNN}
DISTRIBUTIONS = {
    "gaussian": GAUSSIAN,
    "heteroscedastic": {"class_name": "HeteroscedasticGaussianDistribution", "init_std": 0.5},
    "beta": {"class_name": "BetaDistribution", "action_range": [-2.0, 1.0]},
}


class ForgetfulEnv(CameraEnv):
    """Cannot go back to where it was."""

    restores_exactly = False
    steps = 0

    def step(self, actions):
        self.steps += 1
        return super().step(actions)


def runner_of(model: str, distribution: str = "gaussian", algorithm: str = "PPO", env=None) -> OnPolicyRunner:
    if algorithm == "PPO":
        cfg = ppo_cfg_with(MODELS[model])
        cfg["actor"]["distribution_cfg"] = dict(DISTRIBUTIONS[distribution])
    else:
        cfg = distillation_cfg(MODELS[model], MODELS[model])
        cfg["student"]["distribution_cfg"] = dict(DISTRIBUTIONS[distribution])
        cfg["teacher"]["distribution_cfg"] = dict(DISTRIBUTIONS[distribution])
        if model == "cnn":
            cfg["obs_groups"] = {name: ["policy", "camera", "depth"] for name in ("student", "teacher")}
    torch.manual_seed(1)
    runner = OnPolicyRunner(env or CameraEnv(num_envs=5, max_episode_length=12), cfg)
    if algorithm == "Distillation":
        runner.alg.teacher_loaded = True
    runner.learn(1)
    return runner


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algorithm", ["PPO", "Distillation"])
def test_every_model_passes_from_both_algorithms(algorithm: str, model: str, to: str, tmp_path):
    runner = runner_of(model, algorithm=algorithm)
    exported = export_policy_of(runner, to, tmp_path / f"policy{SUFFIXES[to]}")
    assert [path.name for path in tmp_path.iterdir()] == [exported.path.name]
    # Of 4 environments 40 steps, twice: a start each, and restarts.
    assert exported.agreement is not None and exported.agreement.steps == 320
    assert exported.agreement.resets > 2 * (4 + 2)
    assert exported.agreement.largest <= exported.agreement.allowed


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("distribution", ["heteroscedastic", "beta"])
def test_every_distribution_passes(distribution: str, to: str, tmp_path):
    export_policy_of(runner_of("gru", distribution), to, tmp_path / f"policy{SUFFIXES[to]}")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("to", ["onnx", "pt2"])
@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_robots_at_once(model: str, to: str, tmp_path):
    path = tmp_path / f"policy{SUFFIXES[to]}"
    export_policy_of(runner_of(model), to, path, dynamic_batch=True)
    assert path.is_file()


def test_torchscript_is_of_one_robot(tmp_path):
    with pytest.raises(UserError, match="any number at once takes onnx or pt2"):
        export_policy_of(runner_of("mlp"), "torchscript", tmp_path / "policy.pt", dynamic_batch=True)


# The gate


def altered(path: Path, number: int) -> Path:
    """Write an ONNX file in which one weight differs by 1e-3, and return it."""
    file = onnx.load(str(path))
    weights = [entry for entry in file.graph.initializer if len(entry.dims) > 1 and entry.data_type == 1]
    chosen = weights[number % len(weights)]
    values = onnx.numpy_helper.to_array(chosen).copy()
    values[tuple(np.random.default_rng(number).integers(0, size) for size in values.shape)] += 1e-3
    chosen.CopyFrom(onnx.numpy_helper.from_array(values, chosen.name))
    onnx.save(file, str(path.with_name("altered.onnx")))
    return path.with_name("altered.onnx")


@pytest.mark.parametrize("model", MODELS)
def test_one_weight_that_differs_by_a_thousandth_fails(model: str, tmp_path):
    runner = runner_of(model)
    exported = export_policy_of(runner, "onnx", tmp_path / "policy.onnx")
    policy = copied_to_cpu(runner.alg.get_policy())
    recording = record_and_return(policy, runner.env, 40)
    about = OnnxPolicy(exported.path).metadata
    assert check_file(policy, recording, about, exported.path, "onnx").is_enough
    for number in range(12):
        agreement = check_file(policy, recording, about, altered(exported.path, number), "onnx")
        assert not agreement.is_enough, (number, str(agreement))


@pytest.mark.parametrize("to", SUFFIXES)
def test_a_file_that_acts_otherwise_is_not_left_behind(to: str, tmp_path, monkeypatch):
    runner = runner_of("lstm")
    path = tmp_path / f"policy{SUFFIXES[to]}"
    path.write_text("what was there before")
    writer = f"write_{to}_with"

    def write_another(about, policy, *arguments):
        other = copy.deepcopy(policy)
        with torch.no_grad():
            other.mlp[0].weight[3, 2] += 1e-3
        getattr(formats, writer)(about, other, *arguments)

    monkeypatch.setattr(exporting, writer, write_another)
    with pytest.raises(UserError, match=r"does not act as the policy, and was not kept: .* at step \d+ of environment"):
        export_policy_of(runner, to, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there before"


def test_a_memory_that_is_not_forgotten_is_noticed(tmp_path, monkeypatch):
    from sim_rl_plugin.export.players import TorchScriptPlayer

    monkeypatch.setattr(TorchScriptPlayer, "reset", lambda self, robots: None)
    with pytest.raises(UserError, match="does not act as the policy"):
        export_policy_of(runner_of("gru"), "torchscript", tmp_path / "policy.pt")


# The environment


def test_the_environment_stays_where_it_is_and_so_does_the_training(tmp_path):
    runner = runner_of("gru")
    before = copy.deepcopy(runner.env.state_dict())
    memory = runner.alg.actor.get_hidden_state().clone()
    chance = torch.get_rng_state()
    runner.alg.train_mode()
    runner.export_policy_to_onnx(str(tmp_path))
    after = runner.env.state_dict()
    assert all(torch.equal(torch.as_tensor(before[key]), torch.as_tensor(after[key])) for key in before)
    assert torch.equal(runner.alg.actor.get_hidden_state(), memory)
    assert torch.equal(torch.get_rng_state(), chance)
    assert runner.alg.actor.training


def test_an_environment_that_cannot_go_back_is_not_stepped(tmp_path):
    env = ForgetfulEnv(num_envs=5)
    runner = runner_of("lstm", env=env)
    steps = env.steps
    exported = export_policy_of(runner, "onnx", tmp_path / "policy.onnx")
    assert env.steps == steps
    assert exported.agreement is not None and (exported.agreement.steps, exported.agreement.resets) == (80, 8)


# What is inside


def test_all_formats_say_the_same_about_the_policy(tmp_path):
    runner = runner_of("lstm")
    for to, suffix in SUFFIXES.items():
        export_policy_of(runner, to, tmp_path / f"policy{suffix}")
    about = OnnxPolicy(tmp_path / "policy.onnx").metadata
    found = {formats.METADATA_FILE: ""}
    torch.jit.load(str(tmp_path / "policy.pt"), _extra_files=found)
    assert json.loads(found[formats.METADATA_FILE]) == about
    found = {formats.METADATA_FILE: ""}
    torch.export.load(str(tmp_path / "policy.pt2"), extra_files=found)
    assert json.loads(found[formats.METADATA_FILE]) == about
    assert about["inputs"] == [{"name": "obs", "groups": ["policy"], "shape": [1, 2], "dtype": "float32"}]
    assert about["memory"] == {"h_in": "h_out", "c_in": "c_out"}
    assert about["observations"]["policy"]["terms"] == [{"name": "position", "shape": [2]}]
    assert about["actions"] == {"size": 2, "clip": None, "terms": [{"name": "velocity", "shape": [2], "scale": 0.1}]}
    assert about["policy"] == {"class_name": "RNNModel", "distribution": "GaussianDistribution"}
    assert about["versions"]["torch"] == torch.__version__


def test_the_inputs_of_images_are_bytes_where_the_simulator_gives_bytes(tmp_path):
    export_policy_of(runner_of("cnn"), "onnx", tmp_path / "policy.onnx")
    inputs = OnnxPolicy(tmp_path / "policy.onnx").metadata["inputs"]
    assert [(entry["name"], entry["groups"], entry["dtype"]) for entry in inputs] == [
        ("obs", ["policy"], "float32"), ("camera", ["camera"], "uint8"), ("depth", ["depth"], "float32"),
    ]  # fmt: skip


def test_what_cannot_be_exported_is_one_message(tmp_path):
    runner = runner_of("mlp")
    with pytest.raises(UserError, match="unknown export format 'onx': did you mean 'onnx'"):
        export_policy_of(runner, "onx", tmp_path / "policy.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*policy\.onnx"):
        export_policy_of(runner, "onnx", tmp_path / "file" / "policy.onnx")
    policy = copied_to_cpu(runner.alg.get_policy())
    recording = record(policy, runner.env, 2)
    about = exporting.describe(policy, runner.env, runner.layout, runner.cfg)
    wide = copy.deepcopy(policy)
    wide.mlp[-1] = torch.nn.Linear(32, 3)
    formats.write_torchscript_with(about, wide, tmp_path / "wide.pt")
    with pytest.raises(UserError, match="gives 3 actions, the policy 2"):
        check_file(policy, recording, about, tmp_path / "wide.pt", "torchscript")
    with pytest.raises(UserError, match="a Linear cannot be exported: expected a model with as_onnx and as_jit"):
        exporting.describe(torch.nn.Linear(2, 2), runner.env, runner.layout, runner.cfg)
    with pytest.raises(UserError, match="reads the observation group 'policy', and the environment has state"):
        exporting.describe(policy, runner.env, {"observations": {"state": {}}, "num_actions": 2}, runner.cfg)


def test_without_a_runtime_the_runners_method_warns_and_the_gate_is_left_open(tmp_path, monkeypatch):
    runner = runner_of("mlp")
    monkeypatch.setattr(exporting, "_is_installed", lambda package: False)
    with pytest.warns(UserWarning, match=r"policy\.onnx was not checked: running it needs onnxruntime"):
        runner.export_policy_to_onnx(str(tmp_path))
    assert (tmp_path / "policy.onnx").is_file()


# Without torch

ROBOT = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tensordict", "pluggy", "pydantic", "yaml"):
            raise ImportError(f"{name} is not on this robot")

sys.meta_path.insert(0, NoTorch())
import numpy as np
from sim_rl_plugin.onnx_policy import OnnxPolicy

record = np.load("record.npz")
policy = OnnxPolicy("policy.onnx")
names = [name for name in record.files if name not in ("starts", "actions")]
worst = 0.0
for step in range(len(record["actions"])):
    if record["starts"][step]:
        policy.reset()
    actions = policy({name: record[name][step] for name in names})
    worst = max(worst, float(np.abs(actions - record["actions"][step]).max()))
assert not {"torch", "tensordict"} & set(sys.modules)
print(worst)
"""


@pytest.mark.parametrize("model", MODELS)
def test_the_loader_reproduces_a_rollout_where_there_is_no_torch(model: str, tmp_path):
    runner = runner_of(model)
    runner.export_policy_to_onnx(str(tmp_path))
    env, policy = CameraEnv(num_envs=1, max_episode_length=9, seed=8), runner.get_inference_policy()
    policy.reset()
    rows: dict[str, list] = {name: [] for name in ("starts", "actions", *env.get_observations().keys())}
    obs, start = env.get_observations(), True
    for _ in range(30):
        actions = policy(obs).detach()
        for name, value in (
            ("starts", start),
            ("actions", actions[0].numpy()),
            *((k, v[0].numpy()) for k, v in obs.items()),
        ):
            rows[name].append(value)
        obs, _, dones, _ = env.step(actions)
        policy.reset(dones)
        start = bool(dones[0])
    assert 3 <= sum(rows["starts"]) <= 30
    np.savez(tmp_path / "record.npz", **{name: np.stack(values) for name, values in rows.items()})
    environ = {"PYTHONPATH": str(ROOT), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", ROBOT], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 1e-5


def test_the_loader_reads_terms_as_they_were_scaled_and_remembered(tmp_path):
    runner = runner_of("mlp")
    runner.export_policy_to_onnx(str(tmp_path))
    policy = OnnxPolicy(tmp_path / "policy.onnx")
    policy.metadata["observations"] = {
        "policy": {
            "shape": [7],
            "terms": [
                {"name": "speed", "shape": [2], "scale": [2.0, 10.0], "offset": 1.0},
                {"name": "joints", "shape": [2, 2], "history": 2, "scale": 0.5},
                {"name": "command", "shape": [1]},
            ],
        }
    }
    first = policy.observe({"speed": [1, 2], "joints": [4, 6], "command": 9})
    # Scaled, then shifted; a history that has just begun repeats its first entry, the oldest first.
    assert first["policy"].tolist() == [3, 21, 2, 3, 2, 3, 9]
    second = policy.observe({"speed": [0, 0], "joints": [8, 8], "command": 7})
    assert second["policy"].tolist() == [1, 1, 2, 3, 4, 4, 7]
    policy.reset()
    assert policy.observe({"speed": [0, 0], "joints": [2, 2], "command": 7})["policy"].tolist() == [1, 1, 1, 1, 1, 1, 7]
    with pytest.raises(ValueError, match="speed: found 3 values"):
        policy.observe({"speed": [0, 0, 0], "joints": [2, 2], "command": 7})
    policy.metadata["actions"] = {
        "size": 3, "clip": 2.0,
        "terms": [{"name": "legs", "shape": [2], "scale": [0.5, 1.0], "offset": [0.1, 0.0]},
                  {"name": "arm", "shape": [1]}],
    }  # fmt: skip
    targets = policy.targets(np.array([4.0, -1.0, 3.0]))
    assert (targets["legs"].tolist(), targets["arm"].tolist()) == (pytest.approx([1.1, -1.0]), [2.0])


def test_a_file_without_a_description_is_refused(tmp_path):
    form = copied_to_cpu(runner_of("mlp").alg.get_policy()).as_onnx()
    formats.write_onnx(form, str(tmp_path / "bare.onnx"))
    with pytest.raises(ValueError, match="has no metadata of sim-rl"):
        OnnxPolicy(tmp_path / "bare.onnx")


def test_the_loader_is_about_a_page_and_imports_nothing_of_ours():
    source = (ROOT / "sim_rl_plugin" / "onnx_policy.py").read_text()
    assert len(source.splitlines()) < 120
    assert not [line for line in source.splitlines() if line.startswith(("import sim_rl", "from sim_rl"))]


def test_sha256_is_that_of_the_file(tmp_path):
    from sim_rl_plugin.export.description import describe_checkpoint

    (tmp_path / "model_1.pt").write_bytes(b"12" * 999)
    assert describe_checkpoint(tmp_path / "model_1.pt") == {
        "file": "model_1.pt", "sha256": hashlib.sha256(b"12" * 999).hexdigest(),
    }  # fmt: skip
