"""Every kind of model as TorchScript and as ONNX: it acts as the policy does, and can be a teacher."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_configs import CNN, GRU, MLP, CameraEnv, ppo_cfg_with
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.export import write_onnx
from sim_rl_plugin.models import ExportedPolicy, MLPModel
from sim_rl_plugin.runners import OnPolicyRunner

BETA = {"class_name": "BetaDistribution", "action_range": [-2.0, 1.0]}
GROUPS = {"teacher": ["policy"], "seeing": ["policy", "camera", "depth"], "only_seeing": ["camera"]}
RECURRENT = {"gru": GRU, "lstm": {**GRU, "rnn_type": "lstm", "rnn_num_layers": 2}}
MODELS = {"mlp": MLP, **RECURRENT, "cnn": CNN}


def runner(name: str, num_envs: int = 3, **changes) -> OnPolicyRunner:
    """Return a runner whose policy has statistics, and a distribution that makes something of the network's output."""
    cfg = ppo_cfg_with(MODELS[name])
    cfg["actor"]["distribution_cfg"] = dict(BETA)
    cfg["obs_groups"].update(changes)
    built = OnPolicyRunner(CameraEnv(num_envs, max_episode_length=4), cfg)
    built.alg.actor.update_normalization(TensorDict({"policy": 3.0 * torch.randn(50, 2) + 1.0}, batch_size=[50]))
    built.alg.eval_mode()
    return built


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str], tuple[OnPolicyRunner, Path]]:
    """A function that returns a runner and a folder with all its exports, made once per kind of model."""

    @functools.cache
    def export(name: str) -> tuple[OnPolicyRunner, Path]:
        built, folder = runner(name), tmp_path_factory.mktemp(name)
        built.export_policy_to_jit(str(folder / "jit"))
        built.export_policy_to_onnx(str(folder / "onnx_of_one"))
        built.export_policy_to_onnx(str(folder / "onnx"), dynamic_batch=True)
        return built, folder

    return export


def policy_of(built: OnPolicyRunner) -> MLPModel:
    policy = built.get_inference_policy()
    policy.reset()
    return policy


def rollout(num_envs: int, steps: int = 9) -> list[tuple[TensorDict, torch.Tensor]]:
    """Return observations and what ended after them; episodes of different lengths end all the time."""
    env = CameraEnv(num_envs, max_episode_length=4, seed=3)
    env.episode_length_buf = torch.arange(num_envs) % 4
    obs, record = env.get_observations(), []
    for _ in range(steps):
        following, _, dones, _ = env.step(torch.rand(num_envs, 2) - 0.5)
        record.append((obs, dones))
        obs = following
    return record


def feeds_of(session: onnxruntime.InferenceSession, obs: TensorDict) -> dict[str, np.ndarray]:
    names = [entry.name for entry in session.get_inputs() if not entry.name.endswith("_in")]
    return {name: obs["policy" if name == "obs" else name].numpy() for name in names}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_onnx_file_acts_as_the_policy_over_a_rollout_with_resets(name: str, dynamic: bool, exported):
    num_envs = 3 if dynamic else 1
    built, folder = exported(name)
    folder /= "onnx" if dynamic else "onnx_of_one"
    assert [path.name for path in folder.iterdir()] == ["policy.onnx"]
    session = onnxruntime.InferenceSession(str(folder / "policy.onnx"))
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    outputs = [entry.name for entry in session.get_outputs()]
    memories = {"mlp": [], "cnn": [], "gru": ["h"], "lstm": ["h", "c"]}[name]
    images = ["camera", "depth"] if name == "cnn" else []
    assert list(inputs) == ["obs", *images, *(f"{part}_in" for part in memories)]
    assert outputs == ["actions", *(f"{part}_out" for part in memories)]
    assert inputs["obs"] == ["batch" if dynamic else 1, 2]
    layers = 2 if name == "lstm" else 1
    state = {f"{part}_in": np.zeros((layers, num_envs, 8), np.float32) for part in memories}
    policy = policy_of(built)
    for obs, dones in rollout(num_envs):
        actions, *new_state = session.run(None, {**feeds_of(session, obs), **state})
        torch.testing.assert_close(torch.from_numpy(actions), policy(obs).detach(), rtol=1e-4, atol=1e-5)
        policy.reset(dones)
        state = {key: value * ~dones.numpy()[:, None] for key, value in zip(state, new_state, strict=True)}


@pytest.mark.parametrize("name", MODELS)
def test_a_scripted_file_acts_as_the_policy_over_a_rollout_with_resets(name: str, exported):
    built, folder = exported(name)
    scripted = torch.jit.load(str(folder / "jit" / "policy.pt"))
    policy = policy_of(built)
    scripted.reset()
    for obs, dones in rollout(num_envs=1):
        images = ([obs["camera"], obs["depth"]],) if name == "cnn" else ()
        torch.testing.assert_close(scripted(obs["policy"], *images), policy(obs).detach(), rtol=1e-4, atol=1e-5)
        policy.reset(dones)
        if dones.any():
            scripted.reset()


def test_images_alone(tmp_path):
    built = runner("cnn", actor=["camera"])
    built.export_policy_to_onnx(str(tmp_path), dynamic_batch=True)
    built.export_policy_to_jit(str(tmp_path))
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    assert [(entry.name, entry.type) for entry in session.get_inputs()] == [("camera", "tensor(uint8)")]
    obs, _ = rollout(num_envs=3)[-1]
    expected = policy_of(built)(obs).detach()
    (actions,) = session.run(None, {"camera": obs["camera"].numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), expected, rtol=1e-4, atol=1e-5)
    for path in ("policy.onnx", "policy.pt"):
        teacher = ExportedPolicy(obs, GROUPS, "only_seeing", 2, str(tmp_path / path))
        torch.testing.assert_close(teacher(obs), expected, rtol=1e-4, atol=1e-5)


# As teachers


@pytest.mark.parametrize("source", ["jit", "onnx", "onnx_of_one"])
@pytest.mark.parametrize("name", MODELS)
def test_a_teacher_out_of_a_file_acts_as_the_policy_for_every_environment(name: str, source: str, exported):
    built, folder = exported(name)
    path = folder / source / ("policy.pt" if source == "jit" else "policy.onnx")
    record = rollout(num_envs=5)
    teacher = ExportedPolicy(record[0][0], GROUPS, "seeing" if name == "cnn" else "teacher", 2, str(path))
    assert (teacher.is_recurrent, teacher.is_loaded) == (name in RECURRENT, True)
    assert not teacher.state_dict()
    assert teacher.get_hidden_state() is None
    policy = policy_of(built)
    for step, (obs, dones) in enumerate(record):
        with torch.inference_mode(step % 2 == 0):  # rollouts are in inference mode, updates are not
            actions = teacher(obs)
            teacher.reset(dones)
        torch.testing.assert_close(actions, policy(obs).detach(), rtol=1e-4, atol=1e-5)
        policy.reset(dones)
    if name in RECURRENT:
        memory = teacher.get_hidden_state()
        obs = record[0][0]
        once, twice = teacher(obs), teacher(obs)
        assert not torch.equal(once, twice)
        with torch.inference_mode():
            teacher.reset(hidden_state=memory)
        torch.testing.assert_close(teacher(obs), once)
        torch.testing.assert_close(teacher(obs), twice)
        teacher.reset()
        assert teacher.get_hidden_state() is None


def test_a_file_that_rsl_rl_exported_has_its_weights_beside_it(exported, tmp_path):
    built, _ = exported("lstm")
    form, path = built.alg.get_policy().as_onnx().eval(), str(tmp_path / "policy.onnx")
    torch.onnx.export(
        form, form.get_dummy_inputs(), path, opset_version=18, verbose=False,
        input_names=form.input_names, output_names=form.output_names,
    )  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 2
    obs, _ = rollout(num_envs=5)[0]
    teacher, policy = ExportedPolicy(obs, GROUPS, "teacher", 2, path), policy_of(built)
    for _ in range(3):
        torch.testing.assert_close(teacher(obs), policy(obs).detach(), rtol=1e-4, atol=1e-5)


def test_files_that_do_not_fit_are_one_message(exported, tmp_path):
    _, folder = exported("mlp")
    for file in ("jit/policy.pt", "onnx/policy.onnx"):
        shutil.copy(folder / file, tmp_path)
    obs, _ = rollout(num_envs=5)[0]
    (tmp_path / "rubbish.onnx").write_bytes(b"no graph")
    (tmp_path / "rubbish.pt").write_bytes(b"no module")
    wide = TensorDict({"policy": torch.zeros(5, 7)}, batch_size=[5])
    for observations, obs_set, num_actions, file, message in (
        (obs, "teacher", 2, "gone.pt", r"teacher\.path: no file at"),
        (obs, "teacher", 2, "rubbish.pt", "is no TorchScript module"),
        (obs, "teacher", 2, "rubbish.onnx", "is no ONNX graph"),
        (obs, "teacher", 4, "policy.pt", "gives 2 actions, the robot takes 4"),
        (obs, "teacher", 4, "policy.onnx", "gives 2 actions, the robot takes 4"),
        (wide, "teacher", 2, "policy.pt", r"teacher\.path: .* cannot read the groups policy"),
        (wide, "teacher", 2, "policy.onnx", r"teacher\.path: .* cannot read the groups policy"),
        (obs, "seeing", 2, "policy.onnx", "the graph has the inputs obs, but there are 3 observations"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            ExportedPolicy(observations, GROUPS, obs_set, num_actions, str(tmp_path / file))
        assert "\n" not in str(caught.value)


def test_the_file_of_a_model_that_is_somebody_elses(tmp_path):
    """A form without ``get_batch_axes``, such as rsl_rl's, is written as it is."""

    class Mine(MLPModel):
        pass

    obs, _ = rollout(num_envs=5)[0]
    model = Mine(obs, GROUPS, "teacher", 2, [8])
    form = model.as_onnx().eval()
    form.get_batch_axes = None
    write_onnx(form, str(tmp_path / "mine.onnx"))
    (actions,) = onnxruntime.InferenceSession(str(tmp_path / "mine.onnx")).run(None, {"obs": obs["policy"][:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), model(obs[:1]).detach())
