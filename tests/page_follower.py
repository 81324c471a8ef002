"""Somebody who does what a page of the documentation says, block by block, in a folder of their own.

Python is executed, names and files staying for the blocks below. ``sim-rl`` commands are run, with options behind them
that make a training a matter of seconds. YAML goes through the config loader. A block whose first line is a comment
with a file's name is written there, and must be used further down. Below ``<!-- not run: why -->`` shell lines are
checked without being run: syntax, commands, options, settings, names; and so is YAML for other programs.
"""

from __future__ import annotations

import argparse
import ast
import glob
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import mujoco
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from foreign_envs import LeggedGym
from pages import ROOT, Block
from small_configs import ppo_cfg

from sim_rl_plugin import plugins, registry
from sim_rl_plugin.cli.main import main
from sim_rl_plugin.config import load_config
from sim_rl_plugin.config.loading import PROVIDED_TO_ADAPTER
from sim_rl_plugin.config.overrides import parse_overrides
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.pipelines.plan import load_plan
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.sim_to_sim.layout_map import read_layout_map
from sim_rl_plugin.sweeps.definition import load_sweep
from sim_rl_plugin.testing import PointEnv

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

_RUN = re.compile(r"runs/(\w+)/<run>")
_TRAINED = re.compile(r"runs/([A-Z]\w*)/(<run>|\*|\w+)")
_DUMP = re.compile(r"runs/[\w/.-]+/quarantine/iteration_\d+\.pt")
_OWN_NAME = re.compile(r"\bsim_rl_\w+(?:\.\w+)+")
_VARIABLE = re.compile(r"[A-Z_]+=")
_TINY = ["num_steps_per_env=8", "console=false"]


_learn = OnPolicyRunner.learn


def _learn_briefly(runner: OnPolicyRunner, num_learning_iterations: int, *args: Any, **kwargs: Any) -> None:
    _learn(runner, min(num_learning_iterations, 2), *args, **kwargs)


class _Parsed(Exception):
    """A script has understood its arguments."""


class Follower:
    """Follows one page.

    Args:
        folder: An empty folder, which becomes the working directory.
        monkeypatch: Puts back what is changed.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.site = folder / "site"
        self.site.mkdir()
        for name in ("configs", "examples"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        (folder / "adapters").symlink_to(ROOT / "adapters")
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend("")  # the working directory, as for `python` and `sim-rl`
        monkeypatch.syspath_prepend(str(self.site))
        for name in ("DISPLAY", "WAYLAND_DISPLAY", plugins.ALLOW_LIST):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(OnPolicyRunner, "learn", _learn_briefly)
        plugins.reset_manager()
        self.scope: dict[str, Any] = self._what_a_reader_has()
        self.outputs: list[str] = []
        self.waiting: dict[str, Block] = {}

    @staticmethod
    def _what_a_reader_has() -> dict[str, Any]:
        """Return the names that snippets may take as given."""
        train_cfg = {key: value for key, value in ppo_cfg().items() if key != "obs_groups"}
        return {
            "__name__": "page",
            "env": PointEnv(),
            "my_env": LeggedGym(num_envs=8),
            "evaluation_env": PointEnv(seed=5),
            "train_cfg": train_cfg,
            "device": "cpu",
            "position": np.zeros(8, dtype=np.float32),  # HalfCheetah's, as measured
            "velocity": np.zeros(9, dtype=np.float32),
        }

    def close(self) -> None:
        """Forget the modules that lie in the folder, and its plugins."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "") or "").startswith(str(self.folder)):
                del sys.modules[name]
        plugins.reset_manager()

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: It does not work.
        """
        try:
            if block.file_name:
                self._write(block)
            elif block.not_run:
                assert block.language in ("bash", "yaml"), "only shell lines and YAML may be left out of the run"
                getattr(self, f"_check_{block.language}")(block.text)
            else:
                getattr(self, f"_{block.language}")(block)
        except (Exception, SystemExit) as error:
            told = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{block.place}: {told}") from error

    def finish(self) -> None:
        """Check that every file that was written has been used."""
        for module in list(sys.modules.values()):
            path = str(getattr(module, "__file__", "") or "")
            if path.startswith(str(self.folder)):
                text = Path(path).read_text()
                self.waiting = {name: block for name, block in self.waiting.items() if block.file_text != text}
        unused = [f"{block.place}: nothing on the page uses {name}" for name, block in self.waiting.items()]
        assert not unused, "\n".join(unused)

    # Files and snippets

    def _write(self, block: Block) -> None:
        path = Path(block.file_name)
        assert path.parent.is_dir(), f"the page has not told to make the folder {path.parent}"
        path.write_text(block.file_text)
        self._used(block.file_text)
        self.waiting[block.file_name] = block

    def _used(self, text: str) -> None:
        """Note the files that a command or a file names."""
        for name in list(self.waiting):
            if re.search(rf"(?<![\w-]){re.escape(Path(name).name)}", text):
                del self.waiting[name]

    def _python(self, block: Block) -> None:
        self._prepare(block.text)
        exec(compile(block.text, block.place, "exec"), self.scope)

    def _yaml(self, block: Block) -> None:
        file = self.folder / "block.yaml"
        file.write_text(block.text)
        keys = read_mapping(file)
        load = next((load for key, load in YAML_LOADERS.items() if key in keys), _load_settings)
        load(file)

    def _toml(self, block: Block) -> None:
        assert tomllib.loads(block.text)["project"]["entry-points"]["sim_rl_plugin"]

    def _xml(self, block: Block) -> None:
        mujoco.MjModel.from_xml_string(block.text)

    def _text(self, block: Block) -> None:
        """What commands print, and lists of files."""

    # Shell

    def _bash(self, block: Block) -> None:
        for line in lines_of(block.text):
            self._used(line)
            self._prepare(line)
            line = self._with_runs(line)
            words = [path for word in shlex.split(line, comments=True) for path in sorted(glob.glob(word)) or [word]]
            words = list(itertools.dropwhile(_VARIABLE.match, words))
            rule = getattr(self, f"_run_{words[0].replace('-', '_')}", None)
            assert rule is not None, f"how is {words[0]!r} tested? If not at all, say so: <!-- not run: why -->"
            try:
                rule(words[1:])
            except (Exception, SystemExit) as error:
                raise AssertionError(f"`{line}`: {error}") from error

    def _run_sim_rl(self, words: list[str]) -> None:
        result = CliRunner().invoke(main, words + self._shortened(words), prog_name="sim-rl")
        self.outputs.append(result.output)
        assert result.exit_code == 0, f"exit status {result.exit_code}: {result.output}"

    def _shortened(self, words: list[str]) -> list[str]:
        """Return what makes a command quick; of two values for an option, the later counts."""
        command = words[0]
        if command == "train":
            more = ["--eval-episodes", "1", "--no-video"]
            if "--resume" in words:
                return [*more, "--max-iterations", "3"]
            if "--nproc-per-node" in words:
                more += ["--nproc-per-node", "1"]
            if any(word.startswith("evaluation.every=") for word in words):
                more += ["evaluation.every=1", "evaluation.episodes=1"]
            return [*more, "--max-iterations", "2", "--num-envs", "8", *_TINY, *_episode_limit(words)]
        if command == "pipeline" and words[1] == "run":
            plan = load_plan(Path(words[2]))
            short = [f"{stage.name}.max_iterations=1" for stage in plan.stages]
            tiny = [f"common.{override}" for override in ["num_envs=8", *_TINY, *_episode_limit([])]]
            tiny = tiny if plan.common.simulator == "mujoco" else tiny[:-1]
            return ["--eval-episodes", "2", *short, *tiny]
        return {"eval": ["--episodes", "1"], "play": ["--steps", "5"]}.get(command, [])

    def _run_pip(self, words: list[str]) -> None:
        """Install a folder that the page has made or named."""
        command, *folders = [word for word in words if word != "--editable"]
        assert command == "install", f"pip {command}"
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        for folder in folders:
            assert (Path(folder) / "pyproject.toml").is_file(), f"{folder!r} is no folder: say <!-- not run: why -->"
            subprocess.run([*install, "--target", str(self.site), str(Path(folder).resolve())], check=True)
        self._used("pyproject.toml")
        self.monkeypatch.syspath_prepend(str(self.site))
        plugins.reset_manager()

    def _run_python(self, words: list[str]) -> None:
        self._process([sys.executable, *words])

    def _run_pytest(self, words: list[str]) -> None:
        self._process([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words])
        for name in list(self.waiting):
            if name.startswith(words[0]) and Path(name).name.startswith("test_"):
                del self.waiting[name]

    def _process(self, command: list[str]) -> None:
        path = os.pathsep.join([str(self.site), str(ROOT), str(ROOT / "adapters")])
        environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
        self.outputs.append(result.stdout + result.stderr)
        assert result.returncode == 0, self.outputs[-1]

    def _run_cd(self, words: list[str]) -> None:
        self.monkeypatch.chdir(words[0])

    def _run_mkdir(self, words: list[str]) -> None:
        subprocess.run(["mkdir", *words], check=True)

    def _run_touch(self, words: list[str]) -> None:
        subprocess.run(["touch", *words], check=True)

    # What is there already when somebody reads a page

    def _prepare(self, text: str) -> None:
        """Train what a block takes as trained, and make the files that it takes as given."""
        for task, name in _TRAINED.findall(text):
            if not Path("runs", task).is_dir():
                self._run_sim_rl(["train", "--task", task, "evaluation.every=1", "evaluation.episodes=1"])
            if name not in ("<run>", "*") and not Path("runs", task, name).is_dir():
                shutil.copytree(_latest_run(task), Path("runs", task, name))
        for name in ("model_500.pt", "old.pt"):
            if re.search(rf"(?<![\w/]){name}", text) and not Path(name).exists():
                self._run_sim_rl(["train", "--task", "Hopper", "--run-dir", f"trained_{name}"])
                shutil.copy(Path(f"trained_{name}", "model_1.pt"), name)
        for dump in _DUMP.findall(self._with_runs(text)):
            if not Path(dump).exists():
                self._break_a_training(Path(dump))

    def _with_runs(self, text: str) -> str:
        """Put the latest run of its task in the place of each ``<run>``."""
        return _RUN.sub(lambda match: _latest_run(match[1]), text)

    def _break_a_training(self, dump: Path) -> None:
        """Write a dump of the quarantine: NaN from the fourth step of one environment."""
        broken = Path("broken", "quarantine", "iteration_0.pt")
        faulty = ["--sim", "faulty_point:FaultyPoint", "env.part=state", "env.envs=[1]", "env.calls=[4]"]
        options = ["--num-envs", "8", "--run-dir", "broken", "nan_quarantine.keep_state=true"]
        if not broken.exists():
            self._run_sim_rl(["train", *faulty, *options])
        dump.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(broken, dump)

    # What is checked without being run

    def _check_yaml(self, text: str) -> None:
        """Check YAML for other programs, and the commands of ours in it, as in a Kubernetes job."""
        waiting: list[Any] = list(yaml.safe_load_all(text))
        while waiting:
            item = waiting.pop()
            if isinstance(item, list) and item[:1] == ["sim-rl"]:
                check_command([str(word) for word in item[1:]])
            elif isinstance(item, list | dict):
                waiting += item.values() if isinstance(item, dict) else item

    def _check_bash(self, text: str) -> None:
        text = re.sub(r"<\w+>", "X", text)
        subprocess.run(["bash", "-n"], input=text, text=True, check=True, capture_output=True)
        for line in lines_of(text):
            for name in _OWN_NAME.findall(line):
                assert is_ours(name), f"there is no {name}"
            words = shlex.split(line, comments=True)
            if "sim-rl" in words:
                check_command(words[words.index("sim-rl") + 1 :])
            else:
                words = list(itertools.dropwhile(_VARIABLE.match, words))
                CHECKS.get(words[0], _check_nothing)(words[1:])


def _latest_run(task: str) -> str:
    """Return the latest run of a task, none of those that have names of their own; without any, a placeholder."""
    return max((str(path) for path in Path("runs", task).glob("20*")), default=f"runs/{task}/<run>")


def _load_settings(file: Path) -> None:
    load_config(None, None if "task" in read_mapping(file) else "Ant", file)


YAML_LOADERS = {"pipeline": load_plan, "observations": read_layout_map, "parameters": load_sweep}
"""What reads a YAML block that has a key; settings have none of these."""


def lines_of(text: str) -> list[str]:
    """Return a script's commands, each on one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _episode_limit(words: list[str]) -> list[str]:
    simulator = words[words.index("--sim") + 1] if "--sim" in words else "mujoco"
    has_it = simulator in ("mujoco", "gymnasium") and "--config" not in words
    return ["env.max_episode_steps=20"] if has_it else []


def check_command(words: list[str]) -> None:
    """Check a command line of ``sim-rl``: its options, its settings, and those of the simulator, installed or not."""
    command: click.Command | None = main
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(click.Context(main, info_name="sim-rl"), words)
    assert command is not None
    context = command.make_context(command.name, words)
    overrides = context.params.get("overrides", ())
    settings = [text for text in overrides if not text.startswith("env.")]
    options = parse_overrides([text for text in overrides if text.startswith("env.")]).get("env", {})
    simulator = context.params.get("simulator")
    if simulator is not None and ":" not in simulator:
        simulator = registry.get_entry("adapters", simulator).name
        unknown = set(options) - keyword_parameters(registry.get_entry("adapters", simulator).target)
        assert not unknown, f"{simulator} has no options {sorted(unknown)}"
    if command.name in ("train", "check-env"):
        load_config("mujoco", "Hopper", None, settings)


def keyword_parameters(target: str) -> set[str]:
    """Return the options of an adapter from its source, for which its simulator need not be installed."""
    module, _, function = target.partition(":")
    (source,) = [path for path in paths_of(module) if path.is_file()]
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return {argument.arg for argument in node.args.kwonlyargs} - set(PROVIDED_TO_ADAPTER)
    raise AssertionError(f"there is no {target}")


def paths_of(module: str) -> list[Path]:
    path = module.replace(".", "/")
    return [root / name for root in (ROOT, ROOT / "adapters") for name in (f"{path}.py", f"{path}/__init__.py")]


def is_ours(name: str) -> bool:
    """Return whether there is a module of this dotted name, or something of this name in a module."""
    if any(path.is_file() for path in paths_of(name)):
        return True
    module, _, attribute = name.rpartition(".")
    return any(re.search(rf"\b{attribute}\b", path.read_text()) for path in paths_of(module) if path.is_file())


def check_pip(words: list[str]) -> None:
    """Check what pip would install: of ours, the extras; of constraints, that they are there."""
    command, *words = words
    assert command == "install", f"pip {command}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    while words:
        word = words.pop(0)
        if word == "--constraint":
            constraints = words.pop(0)
            assert (ROOT / constraints).is_file(), f"there is no {constraints}"
        elif word != "--editable":
            match = re.fullmatch(r"(\.|[\w-]+)(?:\[([\w,]+)\])?", word)
            assert match is not None, f"{word!r} is no requirement"
            if match[1] in (".", "sim-rl-plugin") and match[2]:
                assert set(match[2].split(",")) <= set(extras), f"there are no extras {match[2]}"


def check_make(words: list[str]) -> None:
    """Let make say what it would do."""
    subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)


def check_python(words: list[str]) -> None:
    """Let a script's own parser read its arguments, and stop there."""
    script, arguments = ROOT / words[0], words[1:]
    assert script.is_file(), f"there is no {script}"
    if "argparse" not in script.read_text():
        assert not arguments, f"{script.name} takes no arguments"
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(self, *args, **kwargs)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [str(script), *arguments])
        patch.syspath_prepend(str(script.parent))
        with pytest.raises(_Parsed):
            runpy.run_path(str(script), run_name="__main__")


def _check_nothing(words: list[str]) -> None:
    """Commands of others: their names of ours are checked, see above."""


CHECKS = {"pip": check_pip, "make": check_make, "python": check_python}
