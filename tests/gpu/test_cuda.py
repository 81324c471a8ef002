"""What only a CUDA device can show: placement of tensors, fused kernels, resume. ``make gpu`` runs it."""

import pytest
import torch
from small_configs import CNN, MLP, CameraEnv, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda:0"


@pytest.mark.parametrize("env_device", ["cpu", DEVICE])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_training_with_the_simulator_on_either_side(env_device: str, optimizer: str):
    runner = OnPolicyRunner(PointEnv(device=env_device), ppo_cfg(optimizer=optimizer), None, DEVICE)
    runner.learn(3, init_at_random_ep_len=True)
    assert all(parameter.device.type == "cuda" for parameter in runner.alg.actor.parameters())
    assert 0.0 < runner.alg.learning_rate <= 0.01


def test_values_agree_with_the_cpu():
    values = {}
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        env = PointEnv(device=device)
        algorithm = OnPolicyRunner(env, ppo_cfg(), None, "cpu").alg
        algorithm.actor.to(device)
        values[device] = algorithm.actor(env.get_observations()).cpu()
    torch.testing.assert_close(values["cpu"], values[DEVICE], rtol=1e-4, atol=1e-5)


def test_a_run_resumes(tmp_path):
    first = OnPolicyRunner(PointEnv(), ppo_cfg(), str(tmp_path), DEVICE)
    first.learn(6)
    second = OnPolicyRunner(PointEnv(), ppo_cfg(), str(tmp_path), DEVICE)
    second.resume(str(tmp_path / "model_5.pt"))
    assert second.completed_iterations == 6
    second.learn(2)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("model", [MLP, CNN])
def test_a_recorded_step_gives_the_plain_numbers(model: dict, mixed: bool):
    losses = {}
    for fast in (True, False):
        cfg = {**ppo_cfg_with(model, use_mixed_precision=mixed), "fast": fast}
        env = CameraEnv(device=DEVICE)
        torch.manual_seed(1)
        algorithm = OnPolicyRunner(env, cfg, None, DEVICE).alg
        assert algorithm.fast_paths.update is fast
        losses[fast] = [losses_of_an_iteration(algorithm, env) for _ in range(4)]
        assert algorithm.against_recording is None
        if fast:
            assert algorithm._fast_update._replay is not None
    for recorded, plain in zip(losses[True], losses[False], strict=True):
        assert recorded == pytest.approx(plain, rel=1e-2 if mixed else 1e-4)


def losses_of_an_iteration(algorithm, env) -> dict[str, float]:
    obs = env.get_observations()
    algorithm.begin_rollout()
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, rewards, dones, extras)
        algorithm.compute_returns(obs)
    return algorithm.update()


def test_an_update_reads_nothing_back_before_its_end():
    env = PointEnv(device=DEVICE)
    algorithm = OnPolicyRunner(env, ppo_cfg(), None, DEVICE).alg
    obs = env.get_observations()
    algorithm.begin_rollout()
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    algorithm.compute_returns(obs)
    batches = list(algorithm._mini_batches())
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            algorithm._update_once(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
