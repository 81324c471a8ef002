"""A sweep file is read strictly, before anything is trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from sim_rl_plugin.config import load_config
from sim_rl_plugin.config.yaml_text import dump
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.sweeps.definition import load_sweep

FLOAT = {"distribution": "float", "low": 0.1, "high": 0.9}


def test_the_settings_of_a_trial_are_those_of_the_same_overrides(sweep_file):
    parameters = {
        "algorithm.learning_rate": {"distribution": "log", "low": 1e-5, "high": 1e-2},
        "actor.hidden_dims": {"distribution": "categorical", "choices": [[8], [8, 8]]},
    }
    sweep = load_sweep(sweep_file(parameters=parameters, seeds=[4, 5]))
    Path("train.yaml").write_text(dump(sweep.train))
    config = sweep.config_of({"algorithm.learning_rate": 2e-5, "actor.hidden_dims": [8, 8], "env.bonus": 0.5}, seed=5)
    overrides = ["algorithm.learning_rate=2e-5", "actor.hidden_dims=[8,8]", "env.bonus=0.5"]
    overrides += ["seed=5", "max_iterations=4"]
    assert config == load_config(config_file=Path("train.yaml"), overrides=overrides)


def test_a_config_file_lies_beneath_and_the_command_line_on_top(sweep_file):
    Path("sub").mkdir()
    Path("sub/base.yaml").write_text("num_envs: 12\nnum_steps_per_env: 16\n")
    sweep = load_sweep(
        sweep_file(config="sub/base.yaml", sampler="RandomSampler"), ["train.num_envs=6", "budget.trials=9"]
    )
    assert (sweep.train["num_envs"], sweep.train["num_steps_per_env"]) == (6, 8)
    assert (sweep.budget.trials, sweep.sampler) == (9, {"class_name": "RandomSampler"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameter": {}}, "unknown key 'parameter': did you mean 'parameters'?"),
        ({"num_envs": 3}, "unknown key 'num_envs': did you mean 'train.num_envs'?"),
        ({"parameters": None}, "parameters: expected settings with their distributions"),
        ({"parameters": {"algorithm.gamma": 1}}, "parameters.algorithm.gamma: expected a mapping with 'distribution'"),
        (
            {"parameters": {"algorithm.gama": FLOAT}},
            "a trial with env.bonus=0.0, algorithm.gama=0.1: unknown key 'algorithm.gama': did you mean 'algorithm.",
        ),
        ({"parameters": {"env.bonsu": FLOAT}}, "unknown key 'env.bonsu': did you mean 'env.bonus'?"),
        ({"parameters": {"seed": FLOAT}}, "parameters.seed is filled in by the sweep: say seeds"),
        ({"train": {"max_iterations": 4}}, "train.max_iterations is filled in by the sweep: say budget.iterations"),
        (
            {"parameters": {"env.bonus": {"distribution": "uniform"}}},
            "parameters.env.bonus.distribution: expected one of 'float', 'log', 'int', 'log_int', 'categorical'",
        ),
        (
            {"parameters": {"env.bonus": {"lwo": 1.0}}},
            "parameters.env.bonus.lwo': did you mean 'parameters.env.bonus.low",
        ),
        (
            {"parameters": {"env.bonus": {"high": 0.0}}},
            "parameters.env.bonus.high: expected more than low (0.0), found 0.0",
        ),
        ({"parameters": {"env.bonus": {"step": 0.3}}}, "parameters.env.bonus.step: expected a whole number of steps"),
        (
            {"parameters": {"env.bonus": {"distribution": "log"}}},
            "parameters.env.bonus.low: expected a number greater than 0",
        ),
        ({"parameters": {"env.bonus": {"distribution": "int"}}}, "parameters.env.bonus.low: expected an integer"),
        (
            {"parameters": {"env.bonus": {"distribution": "categorical"}}},
            "parameters.env.bonus.low: the distribution 'categorical' has no low",
        ),
        (
            {"parameters": {"env.accident": {"distribution": "categorical", "choices": ["", ""]}}},
            "parameters.env.accident.choices: '' stands there twice",
        ),
        ({"objective": {"direction": "up"}}, "objective.direction: expected one of 'maximize', 'minimize', found 'up'"),
        ({"objective": {"mean_over": 0}}, "objective.mean_over: expected 1 or more, found 0"),
        ({"objective": {"metric": "Eval/mean_return"}}, "set train.evaluation.every to 1 up to 4, found 0"),
        ({"budget": {"trials": None}}, "budget.trials is missing"),
        ({"budget": None}, "budget.iterations is missing: Budget needs an integer"),
        ({"seeds": [1, 1]}, "seeds: expected different numbers, 0 or more, found [1, 1]"),
        ({"seeds": 3}, "seeds: expected a list of integers, found 3"),
        ({"max_failures": 0}, "max_failures: expected 1 or more, or null, found 0"),
        ({"train": {"task": None}}, "train.task is missing"),
    ],
)
def test_a_mistake_is_named_with_its_key(sweep_file, changes, message):
    with pytest.raises(UserError) as raised:
        load_sweep(sweep_file(**changes))
    assert message in str(raised.value)


def test_optuna_is_imported_by_the_command_alone():
    code = (
        "import sys; from sim_rl_plugin.cli.main import main; import sim_rl_plugin.sweeps.definition\n"
        "try: main(['--help'])\n"
        "finally: print('optuna' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "sweep" in done.stdout
    assert done.stdout.endswith("False\n")


def test_without_optuna_the_command_says_what_to_install(sim_rl, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = sim_rl("sweep", "search.yaml")
    assert result.exit_code == 2
    assert 'needs optuna, not installed: pip install "sim-rl-plugin[sweep]"' in result.stderr
