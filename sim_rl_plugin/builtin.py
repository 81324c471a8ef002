"""What sim-rl brings along, handed over through the same hooks that third parties use."""

from __future__ import annotations

from typing import Any

from sim_rl_plugin.hooks import Entry, hookimpl


@hookimpl
def sim_rl_algorithms() -> list[Entry]:
    """Return our algorithms."""
    return [
        Entry("PPO", "sim_rl_plugin.algorithms:PPO", "Proximal policy optimization"),
        Entry("Distillation", "sim_rl_plugin.algorithms:Distillation", "A student learns to act as a teacher does"),
    ]


@hookimpl
def sim_rl_models() -> list[Entry]:
    """Return our models."""
    return [
        Entry("MLPModel", "sim_rl_plugin.models:MLPModel", "Multi-layer perceptron on 1D observations"),
        Entry("RNNModel", "sim_rl_plugin.models:RNNModel", "GRU or LSTM, and a multi-layer perceptron"),
        Entry("CNNModel", "sim_rl_plugin.models:CNNModel", "Convolutions on 2D observations, and a perceptron"),
        Entry("ExportedPolicy", "sim_rl_plugin.models:ExportedPolicy", "A teacher out of a TorchScript or ONNX file"),
        Entry(
            "TeacherEnsemble", "sim_rl_plugin.models:TeacherEnsemble", "Several teachers, each for some environments"
        ),
    ]


@hookimpl
def sim_rl_runners() -> list[Entry]:
    """Return our runners."""
    return [
        Entry("OnPolicyRunner", "sim_rl_plugin.runners:OnPolicyRunner", "Collects, updates, logs, saves"),
        Entry("DistillationRunner", "sim_rl_plugin.runners:DistillationRunner", "The same, and asks for a teacher"),
    ]


@hookimpl
def sim_rl_log_writers() -> list[Entry]:
    """Return our log writers."""
    return [
        Entry("tensorboard", "sim_rl_plugin.logging.tensorboard:TensorboardLogWriter", "TensorBoard event files"),
        Entry("csv", "sim_rl_plugin.logging.csv:CsvLogWriter", "metrics.csv in the run folder"),
        Entry(
            "mlflow",
            "sim_rl_plugin.logging.mlflow:MlflowLogWriter",
            "MLflow",
            requires=("mlflow",),
            extra="sim-rl-plugin[mlflow]",
        ),
        Entry(
            "neptune",
            "sim_rl_plugin.logging.neptune:NeptuneLogWriter",
            "Neptune",
            requires=("neptune",),
            extra="sim-rl-plugin[neptune]",
        ),
        Entry(
            "wandb",
            "sim_rl_plugin.logging.wandb:WandbLogWriter",
            "Weights & Biases",
            requires=("wandb",),
            extra="sim-rl-plugin[wandb]",
        ),
    ]


@hookimpl
def sim_rl_pipelines() -> list[Entry]:
    """Return our pipelines."""
    return [
        Entry(
            "teacher-student",
            "sim_rl_plugin.pipelines.teacher_student:TEACHER_STUDENT",
            "PPO on privileged observations, distilled into what the robot senses, fine-tuned, compared",
        )
    ]


@hookimpl
def sim_rl_launchers() -> list[Entry]:
    """Return our launchers."""
    return [
        Entry("in-process", "sim_rl_plugin.launchers.in_process:launch", "One process: this one"),
        Entry("torchrun", "sim_rl_plugin.launchers.elastic:launch", "PyTorch's elastic agent starts and restarts them"),
        Entry("environment", "sim_rl_plugin.launchers.environment:launch", "torchrun or a scheduler has started them"),
    ]


@hookimpl
def sim_rl_commands() -> list[Entry]:
    """Return our sub-commands."""
    return [
        Entry("train", "sim_rl_plugin.cli.train:train", "Train a policy on a simulator's task"),
        Entry(
            "pipeline", "sim_rl_plugin.cli.pipeline:pipeline", "Train in several stages, such as teacher and student"
        ),
        Entry(
            "sweep",
            "sim_rl_plugin.cli.sweep:sweep",
            "Search the settings that train best, in many trainings",
            requires=("optuna",),
            extra="sim-rl-plugin[sweep]",
        ),
        Entry("eval", "sim_rl_plugin.cli.eval:evaluate_run", "Measure a trained policy over whole episodes"),
        Entry("export", "sim_rl_plugin.cli.export:export", "Write a policy as ONNX, TorchScript or pt2, and check it"),
        Entry("play", "sim_rl_plugin.cli.play:play", "Show a trained policy as a video or in a window"),
        Entry("checkpoint", "sim_rl_plugin.cli.checkpoint:checkpoint", "Show, verify and convert checkpoints"),
        Entry("list", "sim_rl_plugin.cli.list:list_tasks", "List simulators and their tasks"),
        Entry("plugins", "sim_rl_plugin.cli.plugins:plugins", "List plugins, what they add, and what failed"),
        Entry("check-env", "sim_rl_plugin.cli.check_env:check_env_command", "Check that an adapter keeps the contract"),
        Entry("doctor", "sim_rl_plugin.cli.doctor:doctor", "Check what trainings need, and say what to fix"),
        Entry("replay", "sim_rl_plugin.cli.replay:replay", "Repeat the steps that led to NaN or infinity"),
        Entry("plot", "sim_rl_plugin.cli.plot:plot", "Draw the learning curves of one or many runs"),
        Entry("report", "sim_rl_plugin.cli.report:report", "Write one HTML page about one or many runs"),
    ]


@hookimpl
def sim_rl_wrap_env(env: Any) -> Any:
    """Return an environment in the shape of rsl_rl, legged_gym, Isaac Lab or Genesis behind our contract, or None."""
    from sim_rl_plugin.env.foreign import wrap_vec_env_shaped

    return wrap_vec_env_shaped(env)


@hookimpl
def sim_rl_default_config(adapter: str, task: str) -> dict[str, Any] | None:
    """Return the settings that ``configs/`` holds for a task, or None."""
    from sim_rl_plugin.config.files import task_settings

    return task_settings(adapter, task)
