"""Isaac Lab's own scripts: the runner that they get, and what they ask of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_configs import ppo_cfg
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError

pytest.importorskip("gymnasium")

from isaaclab_stand_in import RslRlVecEnvWrapper, StandInEnv, task_cfg
from sim_rl_isaaclab.runners import DistillationRunner, OnPolicyRunner

_SCRIPT = """
import sys
import cli_args  # a neighbour
from rsl_rl.runners import DistillationRunner, OnPolicyRunner, Other
print(OnPolicyRunner.__module__, DistillationRunner.__module__, Other.__module__, sys.argv[1:], __name__)
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    package = tmp_path / "rsl_rl"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "runners.py").write_text(
        "class OnPolicyRunner: pass\nclass DistillationRunner: pass\nclass Other: pass\n"
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "cli_args.py").write_text("")
    (tmp_path / "scripts" / "train.py").write_text(_SCRIPT)
    return tmp_path


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=folder)


def test_an_unmodified_script_gets_our_runners(scripts: Path) -> None:
    result = _python(scripts, "-m", "sim_rl_isaaclab.takeover", "scripts/train.py", "--task", "T", "env.sim.dt=0.1")
    ours = "sim_rl_isaaclab.runners"
    assert result.stdout.split("\n")[0] == f"{ours} {ours} rsl_rl.runners ['--task', 'T', 'env.sim.dt=0.1'] __main__"
    missing = _python(scripts, "-m", "sim_rl_isaaclab.takeover", "scripts/nothing.py")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: expected a script of Isaac Lab")


def test_modules_that_were_imported_already_get_them_too(scripts: Path) -> None:
    code = (
        "import sys, types, rsl_rl.runners\n"
        "utils = types.ModuleType('isaaclab_rl.rsl_rl.utils')\n"
        "utils.OnPolicyRunner = rsl_rl.runners.OnPolicyRunner\n"
        "sys.modules['isaaclab_rl.rsl_rl.utils'] = utils\n"
        "from sim_rl_isaaclab.takeover import external_callback\n"
        "print(external_callback())\n"
        "print(utils.OnPolicyRunner.__module__, rsl_rl.runners.DistillationRunner.__module__)\n"
    )
    flag = "--external_callback"
    result = _python(scripts, "-c", code, "--task", "T", flag, "a.b", f"{flag}=c.d", "physics=newton_mjwarp")
    assert result.stdout.split("\n")[:2] == [
        "['--task', 'T', 'physics=newton_mjwarp']",
        "sim_rl_isaaclab.runners sim_rl_isaaclab.runners",
    ]


def _runner(**changes: Any) -> OnPolicyRunner:
    wrapper = RslRlVecEnvWrapper(StandInEnv(task_cfg()))
    return OnPolicyRunner(wrapper, {**ppo_cfg(), "obs_groups": {"actor": ["policy"], "critic": ["policy"]}, **changes})


def test_the_policy_takes_the_tensor_of_isaac_lab_2_2() -> None:
    policy = _runner().get_inference_policy(device="cpu")
    obs = torch.randn(6, 3)
    groups = TensorDict({"policy": obs}, batch_size=[6])
    assert torch.equal(policy(obs), policy(groups))
    policy.reset(torch.ones(6))
    assert not policy.is_recurrent
    assert not policy.training


def test_a_policy_of_other_groups_says_so() -> None:
    env = StandInEnv(task_cfg(groups="cameras"))
    cfg = {**ppo_cfg(), "obs_groups": {"actor": ["policy", "camera/range"], "critic": ["policy"]}}
    policy = OnPolicyRunner(env, cfg).get_inference_policy()
    with pytest.raises(UserError, match="reads the groups policy, camera/range"):
        policy(torch.randn(6, 3))


def test_networks_under_the_names_of_rsl_rl_3() -> None:
    runner = _runner()
    networks = runner.alg.policy
    obs = torch.randn(5, 3)
    normalized = networks.actor_obs_normalizer(obs)
    expected = runner.get_inference_policy("cpu")(obs)
    assert torch.equal(networks.actor(normalized), expected)
    assert networks.actor[0].in_features == 3
    assert runner.obs_normalizer is networks.actor_obs_normalizer
    assert not networks.is_recurrent
    for name in ("student", "student_obs_normalizer", "memory_a"):
        assert not hasattr(networks, name)


def test_a_student_is_found_where_play_py_looks_for_it() -> None:
    model = {"class_name": "RNNModel", "hidden_dims": [8], "rnn_type": "gru", "rnn_hidden_dim": 4}
    noisy = {**model, "distribution_cfg": {"class_name": "GaussianDistribution"}}
    cfg = {
        "num_steps_per_env": 4,
        "obs_groups": {"student": ["policy"], "teacher": ["policy"]},
        "algorithm": {"class_name": "Distillation"},
        "student": noisy,
        "teacher": {**noisy, "class_name": "RNNModel"},
    }
    runner = DistillationRunner(RslRlVecEnvWrapper(StandInEnv(task_cfg())), cfg)
    networks = runner.alg.policy
    assert networks.is_recurrent
    assert networks.memory_s.rnn is runner.alg.get_policy().rnn.rnn
    assert networks.student[0].in_features == 4
    assert not hasattr(networks, "actor")
    networks.reset(torch.ones(6))
