"""Train tiny policies with an old rsl_rl, and record what they answer.

Run it once for each release, in an environment that has it::

    pip install rsl-rl-lib==2.3.3 tensorboard
    python make.py FOLDER

Every case becomes two files in ``FOLDER/<release>/``: ``<case>.pt``, the checkpoint as that release
wrote it, and ``<case>.expected.pt``: the training dict that it was given, observations, the answers to
them, and where in the checkpoint the optimizer's parameters are, in the optimizer's order
(``<key>/<name>``). A recurrent policy is asked step by step, from an empty memory.
"""

import copy
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

RELEASE = version("rsl-rl-lib")
MAJOR = int(RELEASE.split(".")[0])
SIZES = {"policy": (3,), "critic": (5,), "teacher": (4,), "rnd_state": (2,), "image": (1, 6, 6)}
NUM_ENVS, NUM_ACTIONS, NUM_STEPS = 4, 2, 3


class Noise:
    """An environment of random observations and rewards, with the interface of the installed release."""

    step_dt = dt = 0.5
    num_envs, num_actions = NUM_ENVS, NUM_ACTIONS
    max_episode_length = 5
    device = "cpu"
    cfg: dict = {}

    def __init__(self, groups):
        self.groups = groups
        self.unwrapped = self
        self.episode_length_buf = torch.zeros(NUM_ENVS, dtype=torch.long)
        self.num_obs, self.num_privileged_obs = 3, None

    def observations(self):
        # Far from mean 0 and deviation 1, so that normalisation shows.
        return {group: 2.0 + 3.0 * torch.randn(NUM_ENVS, *SIZES[group]) for group in self.groups}

    def get_observations(self):
        obs = self.observations()
        if MAJOR == 2:
            return obs["policy"], {"observations": obs}
        from tensordict import TensorDict

        return TensorDict(obs, batch_size=[NUM_ENVS])

    def step(self, actions):
        self.episode_length_buf += 1
        dones = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf[dones] = 0
        rewards = torch.randn(NUM_ENVS) - actions.square().sum(-1)
        extras = {"time_outs": dones.clone()}
        obs = self.get_observations()
        if MAJOR == 2:
            obs, more = obs
            extras.update(more)
        return obs, rewards, dones.long(), extras

    def reset(self):
        return self.get_observations()


def cases():
    """Return, for the installed release: case -> (groups, policy or models, settings)."""
    student = dict(student_hidden_dims=[8, 8], teacher_hidden_dims=[8, 8], activation="elu", init_noise_std=0.2)
    mlp = dict(actor_hidden_dims=[8, 8], critic_hidden_dims=[6], activation="elu", init_noise_std=0.5)
    rnn = dict(rnn_hidden_dim=5, rnn_num_layers=1)
    both = ("policy", "critic")
    rnd = dict(
        weight=0.3, learning_rate=0.002, num_outputs=2, predictor_hidden_dims=[4], target_hidden_dims=[4],
        state_normalization=True, reward_normalization=True, weight_schedule=None,
    )  # fmt: skip
    if RELEASE.startswith(("2.1", "2.2")):
        return {"ppo_normalized": (both, {"class_name": "ActorCritic", **mlp}, {"empirical_normalization": True})}
    if MAJOR == 2:
        actor_critic = {"class_name": "ActorCritic", **mlp}
        return {
            "ppo_normalized": (both, actor_critic, {"empirical_normalization": True}),
            "ppo_one_group": (("policy",), actor_critic, {"empirical_normalization": True}),
            "ppo_log": (both, {**actor_critic, "noise_std_type": "log"}, {}),
            "ppo_gru_rnd": (
                (*both, "rnd_state"),
                {**actor_critic, "class_name": "ActorCriticRecurrent", "rnn_type": "gru", **rnn},
                {"rnd_cfg": rnd},
            ),
            "distillation": (
                ("policy", "teacher"),
                {"class_name": "StudentTeacherRecurrent", **student, "rnn_type": "lstm", **rnn},
                {"empirical_normalization": True},
            ),
        }
    if MAJOR == 3:
        normalized = dict(actor_obs_normalization=True, critic_obs_normalization=True, noise_std_type="log")
        cnn = dict(output_channels=[2], kernel_size=3, stride=2, activation="elu")
        recurrent = {"class_name": "ActorCriticRecurrent", **mlp, **normalized, "rnn_type": "lstm", **rnn}
        return {
            "ppo_state_dependent": (
                both, {"class_name": "ActorCritic", **mlp, **normalized, "state_dependent_std": True}, {},
            ),
            "ppo_lstm_rnd": ((*both, "rnd_state"), recurrent, {"rnd_cfg": rnd}),
            "ppo_cnn": (
                (*both, "image"),
                {"class_name": "ActorCriticCNN", **mlp, "actor_obs_normalization": True, "actor_cnn_cfg": cnn},
                {"obs_groups": {"policy": ["policy", "image"], "critic": ["critic"]}},
            ),
            "distillation": (
                ("policy", "teacher"),
                {
                    "class_name": "StudentTeacherRecurrent", **student, "student_obs_normalization": True,
                    "teacher_obs_normalization": True, "rnn_type": "gru", **rnn, "teacher_recurrent": True,
                },
                {"obs_groups": {"policy": ["policy"], "teacher": ["teacher"]}},
            ),
        }  # fmt: skip
    model = dict(class_name="MLPModel", hidden_dims=[8, 8], activation="elu", obs_normalization=True)
    stochastic = dict(stochastic=True, init_noise_std=0.5, state_dependent_std=False)
    memory = dict(class_name="RNNModel", rnn_type="gru", **rnn)
    critic = {**model, "stochastic": False}
    return {
        "ppo": (both, {"actor": {**model, **stochastic, "noise_std_type": "scalar"}, "critic": critic}, {}),
        "ppo_gru_rnd": (
            (*both, "rnd_state"),
            {"actor": {**model, **stochastic, **memory, "noise_std_type": "log"}, "critic": {**critic, **memory}},
            {"rnd_cfg": rnd},
        ),
        "distillation": (
            ("policy", "teacher"),
            {
                "student": {**model, **stochastic, "noise_std_type": "scalar"},
                "teacher": {**model, **stochastic, "noise_std_type": "scalar"},
            },
            {},
        ),
    }


def train_cfg(case, policy, settings):
    """Return the training dict of a case in the shape of the installed release."""
    settings = copy.deepcopy(settings)
    cfg = {"num_steps_per_env": 8, "save_interval": 100, "max_iterations": 2, "logger": "tensorboard", "seed": 1}
    if MAJOR == 2:
        cfg["empirical_normalization"] = settings.pop("empirical_normalization", False)
    else:
        cfg["obs_groups"] = settings.pop("obs_groups", {})
    if "class_name" in policy:
        cfg["policy"] = policy
    else:
        cfg.update(policy)
    if "distillation" in case:
        cfg["algorithm"] = {"class_name": "Distillation", "num_learning_epochs": 2, "gradient_length": 4}
        cfg["algorithm"]["learning_rate"] = 0.01
        if MAJOR > 2:
            cfg["class_name"] = "DistillationRunner"
    else:
        cfg["algorithm"] = {"class_name": "PPO", "num_learning_epochs": 2, "num_mini_batches": 2, "schedule": "fixed"}
        cfg["algorithm"].update(learning_rate=0.01, gamma=0.99, lam=0.95, entropy_coef=0.005, desired_kl=0.01)
    cfg["algorithm"].update(settings)
    if "distillation" not in case and not RELEASE.startswith("2.1"):
        cfg["algorithm"].setdefault("rnd_cfg", None)
    return cfg


def policy_of(alg):
    """Return the one module of releases before 4.0."""
    return alg.policy if hasattr(alg, "policy") else alg.actor_critic


def inputs(runner, groups, second):
    """Return what the two networks are given for some observations."""
    if MAJOR > 2:
        from tensordict import TensorDict

        obs = TensorDict(groups, batch_size=[NUM_ENVS])
        return obs, obs
    normalizers = vars(runner)["obs_normalizer"], vars(runner).get("privileged_obs_normalizer")
    if normalizers[1] is None:
        normalizers = normalizers[0], runner.critic_obs_normalizer
    obs = normalizers[0](groups["policy"])
    return obs, normalizers[1](groups[second]) if second in groups else obs


def ask(runner, env, distillation):
    """Return observations and what actor and critic, or student and teacher, say to them."""
    alg = runner.alg
    if MAJOR < 4:
        networks = policy_of(alg).act_inference, policy_of(alg).evaluate
    else:
        networks = (alg.student, alg.teacher) if distillation else (alg.actor, alg.critic)
    steps = [env.observations() for _ in range(NUM_STEPS)]
    answers = []
    with torch.inference_mode():
        for groups in steps:
            given = inputs(runner, groups, "teacher" if distillation else "critic")
            answers.append([network(obs) for network, obs in zip(networks, given, strict=True)])
    stacked = {group: torch.stack([groups[group] for groups in steps]) for group in env.groups}
    return stacked, *(torch.stack(answer) for answer in zip(*answers, strict=True))


def forget(runner):
    """Empty the memories and leave training mode."""
    alg = runner.alg
    if MAJOR < 4:
        runner.eval_mode()
        modules = list(policy_of(alg).modules())
    else:
        alg.eval_mode()
        models = (alg.student, alg.teacher) if hasattr(alg, "student") else (alg.actor, alg.critic)
        modules = [module for model in models for module in model.modules()]
    for module in modules:
        for name in ("hidden_states", "hidden_state"):
            if name in vars(module):
                setattr(module, name, None)


def parameter_names(alg):
    """Return the parameters in the order in which the optimizer has them."""
    names = {}
    if MAJOR < 4:
        models = {"model_state_dict/": policy_of(alg)}
    else:
        sections = ("student", "teacher") if hasattr(alg, "student") else ("actor", "critic")
        models = {f"{section}_state_dict/": getattr(alg, section) for section in sections}
    for prefix, model in models.items():
        names.update({id(parameter): prefix + name for name, parameter in model.named_parameters()})
    return [names[id(parameter)] for group in alg.optimizer.param_groups for parameter in group["params"]]


def make(case, groups, policy, settings, folder):
    """Train a case and write its two files."""
    if MAJOR == 2:
        from rsl_rl.runners import OnPolicyRunner as runner_class
    else:
        import rsl_rl.runners

        runner_class = getattr(rsl_rl.runners, "DistillationRunner" if "distillation" in case else "OnPolicyRunner")
    torch.manual_seed(len(case))
    env, cfg = Noise(groups), train_cfg(case, policy, settings)
    with tempfile.TemporaryDirectory() as logs:
        runner = runner_class(env, copy.deepcopy(cfg), log_dir=logs, device="cpu")
        if "distillation" in case:
            # Any teacher will do; the releases differ in which ones they can load.
            if MAJOR < 4:
                runner.alg.policy.loaded_teacher = True
            else:
                runner.alg.teacher_loaded = True
        runner.learn(2)
        runner.save(str(folder / f"{case}.pt"))
    forget(runner)
    observations, first, second = ask(runner, env, "distillation" in case)
    expected = {
        "train_cfg": cfg,
        "observations": observations,
        "first": first,
        "second": second,
        "parameters": parameter_names(runner.alg),
    }
    assert all(math.isfinite(value) for value in (*first.flatten().tolist(), *second.flatten().tolist()))
    torch.save(expected, folder / f"{case}.expected.pt")


if __name__ == "__main__":
    target = Path(sys.argv[1]) / RELEASE
    target.mkdir(parents=True, exist_ok=True)
    for name, (groups, policy, settings) in cases().items():
        make(name, groups, policy, settings, target)
