"""From a file to the settings of every stage."""

from pathlib import Path

import pytest

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.pipelines.plan import load_plan


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def configs(file: Path, *overrides: str, **options):
    return {planned.name: planned.config for planned in load_plan(file, overrides, options).stages}


def test_layers_lie_on_one_another():
    """Task: 4 envs, gamma of PPO. common: gamma 0.9, seed 3. Definition: env of easy. Stage: gamma 0.8. Line on top."""
    file = write(
        Path("file.yaml"),
        """
        pipeline: curriculum
        common: {simulator: points, task: Go, seed: 3, algorithm: {gamma: 0.9}}
        easy: {algorithm: {gamma: 0.8}}
        """,
    )
    found = configs(file, "hard.algorithm.lam=0.5", "common.num_envs=6", "easy.seed=4")
    assert {name: (config.algorithm["gamma"], config.algorithm.get("lam")) for name, config in found.items()} == {
        "easy": (0.8, None), "hard": (0.9, 0.5), "direct": (0.9, None),
    }  # fmt: skip
    assert [config.env for config in found.values()] == [{"max_episode_length": 4}, {}, {}]
    assert [config.num_envs for config in found.values()] == [6, 6, 6]
    assert [config.seed for config in found.values()] == [4, 3, 3]
    assert [config.seed for config in configs(file, "easy.seed=4", seed=9).values()] == [9, 9, 9]


def test_the_same_budget_is_counted_in_control_steps_and_rounded_up(curriculum):
    """easy 3 x 4 x 8 = 96, hard 5 x 4 x 8 = 160 control steps; direct takes 4 x 20 an iteration: 256 / 80 = 3.2."""
    plan = load_plan(curriculum, ["direct.num_steps_per_env=20"])
    assert [planned.control_steps for planned in plan.stages] == [96, 160, 320]
    assert plan.stages[2].config.max_iterations == 4
    # Said outright, it is as said.
    assert configs(curriculum, "direct.max_iterations=2")["direct"].max_iterations == 2


def test_stages_can_be_left_out_and_the_evaluation_has_its_own_seed(curriculum):
    plan = load_plan(curriculum, ["stages=[easy,hard]"])
    assert [planned.name for planned in plan.stages] == ["easy", "hard"]
    assert (plan.episodes, plan.evaluation_seed) == (3, 7)
    plan = load_plan(curriculum, ["evaluation={}", "common.seed=2"])
    assert plan.evaluation_seed == 7  # A mapping lies on the file's, it does not replace it.
    plan = load_plan(
        write(Path("short.yaml"), "{pipeline: curriculum, common: {simulator: points, task: Go, seed: 2}}")
    )
    assert (plan.episodes, plan.evaluation_seed) == (20, 1_000_005)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pipeline=curiculum", "unknown pipeline 'curiculum': did you mean 'curriculum'?"),
        ("pipeline=wrong", "the pipeline 'wrong' is no sim_rl_plugin.pipelines.Pipeline but dict"),
        ("pipeline=null", "walk.yaml: pipeline: expected the name of a pipeline, found None"),
        ("hrad.max_iterations=3", "unknown key 'hrad': did you mean 'hard'?"),
        ("num_envs=3", "unknown key 'num_envs': did you mean 'common.num_envs'?"),
        ("hard=3", "hard: expected a mapping of settings, found 3"),
        ("hard.max_iteration=3", "hard: unknown key 'max_iteration': did you mean 'max_iterations'?"),
        ("hard.algorithm.gama=1", "hard: unknown key 'algorithm.gama': did you mean 'algorithm.gamma'?"),
        ("direct.algorithm.gamma=x", "direct: algorithm.gamma: expected a number, found 'x'"),
        ("common.sed=3", "common: unknown key 'sed': did you mean 'seed'?"),
        ("common.task=null", "common.task is missing"),
        ("common.simulator=point", "unknown simulator 'point': did you mean 'points'?"),
        ("hard.init_from=x", "hard.init_from is filled in by the pipeline and cannot be set"),
        ("common.init_from=x", "common.init_from: only a stage's own section can say"),
        ("stages=[easy,hrad]", "unknown stage in stages: 'hrad': did you mean 'hard'?"),
        ("stages=[easy]", "stages: 'hard' is missing, which this pipeline cannot do without"),
        ("stages=easy", "stages: expected a list of strings, found 'easy'"),
        ("evaluation.episode=3", "unknown key 'evaluation.episode': did you mean 'evaluation.episodes'?"),
        ("evaluation.episodes=0", "evaluation.episodes: expected a number greater than 0, found 0"),
        ("evaluation.seed=1.5", "evaluation.seed: expected an integer, found 1.5"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(curriculum, sim_rl, override, message):
    result = sim_rl("pipeline", "run", curriculum, override)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert not list(Path("runs").rglob("*.pt"))


def test_what_only_the_environment_can_tell_is_found_before_the_first_stage_trains(curriculum, sim_rl):
    """The last stage's groups and the second's environment are wrong: no stage has trained."""
    for override, message in (
        ("direct.obs_groups.actor=[polcy]", "direct: "),
        ("hard.env.obs_size=5", "hard: it cannot be evaluated in the environment of the common settings: "),
        ("hard.env.obs_siz=5", "hard: unknown key 'env.obs_siz': did you mean 'env.obs_size'?"),
    ):
        result = sim_rl("pipeline", "run", curriculum, override)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(f"error: {message}")
        assert result.stderr.count("\n") == 1
        assert not list(Path("runs").rglob("*.pt"))


def test_a_definition_is_checked_like_a_file(curriculum):
    with pytest.raises(UserError, match="there is no such file"):
        load_plan(Path("nowhere.yaml"))
