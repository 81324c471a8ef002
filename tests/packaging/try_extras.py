"""Installs each extra alone in a fresh virtual environment, and asks the command line what it finds there.

    python tests/packaging/try_extras.py              # every extra, with the pinned versions
    python tests/packaging/try_extras.py mjx none     # these; "none" is the package without extras
    python tests/packaging/try_extras.py --latest mjx # whatever pip finds today, beside the pinned torch

No test of the suite: it needs a package index, gigabytes and a quarter of an hour. An environment is deleted
when it has been looked at. The exit status is 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"

SIMULATORS = ("gymnasium", "isaaclab", "mjlab", "mjx", "mujoco")


@dataclass(frozen=True)
class Expected:
    """What an extra brings.

    Attributes:
        simulator: Which simulator, or None.
        task: A small task of it, for ``sim-rl check-env``.
        refusal: What ``check-env`` says where the simulator cannot run from an index's packages alone.
        modules: What it makes importable otherwise.
        pinned: Whether ``constraints.txt`` applies. Isaac Lab pins too much itself.
    """

    simulator: str | None = None
    task: str = ""
    refusal: str = ""
    modules: tuple[str, ...] = ()
    pinned: bool = True


EXTRAS = {
    "none": Expected("mujoco", "HalfCheetah"),
    "gymnasium": Expected("gymnasium", "Pendulum-v1"),
    "mjx": Expected("mjx", "CartpoleBalance"),
    "mjlab": Expected("mjlab", "Mjlab-Cartpole-Balance"),
    "isaaclab": Expected("isaaclab", "Isaac-Cartpole-Direct-v0", refusal="Isaac Sim", pinned=False),
    "web": Expected(modules=("viser",)),
    "video": Expected(modules=("imageio", "imageio_ffmpeg")),
    "export": Expected(modules=("onnx", "onnxscript", "onnxruntime")),
    "docs": Expected(modules=("mkdocs", "material")),
    "wandb": Expected(modules=("wandb",)),
    "neptune": Expected(modules=("neptune",)),
    "mlflow": Expected(modules=("mlflow",)),
    "sweep": Expected(modules=("optuna",)),
    "dev": Expected("gymnasium", "CarRacing-v3", modules=("pytest", "mypy", "onnxruntime", "imageio", "optuna")),
}


class Environment:
    """A virtual environment, and the complaints about what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.complaints: list[str] = []
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    def run(self, *command: str, status: int | None = 0) -> str:
        """Run a command of the environment; return stdout. Another exit status or a traceback is a complaint."""
        program, *arguments = command
        done = subprocess.run([str(self.bin / program), *arguments], cwd=ROOT, capture_output=True, text=True)
        text = done.stdout + done.stderr
        if (status is not None and done.returncode != status) or "Traceback" in text:
            self.complaints.append(f"`{' '.join(command)}` ended with {done.returncode}:\n{text[-3000:]}")
        return done.stdout if status == 0 else text

    def expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.complaints.append(what)


def try_extra(name: str, latest: bool) -> list[str]:
    """Return what is wrong with an extra; prints what was found."""
    expected = EXTRAS[name]
    with tempfile.TemporaryDirectory(prefix=f"extra-{name}-") as folder:
        start_s = time.monotonic()
        env = Environment(Path(folder))
        # torch first and pinned: what depends on it must not bring a build of its own choice.
        env.run("pip", "install", "--quiet", "--no-compile", "--constraint", str(CONSTRAINTS), "torch")
        constraints = CONSTRAINTS if expected.pinned and not latest else _torch_only(Path(folder))
        target = "." if name == "none" else f".[{name}]"
        env.run("pip", "install", "--quiet", "--no-compile", "--constraint", str(constraints), "--editable", target)
        env.run("pip", "check")
        if env.complaints:
            return env.complaints
        print(f"{name}: installed in {time.monotonic() - start_s:.0f} s: {_versions(env)}", flush=True)
        for module in expected.modules:
            env.run("python", "-c", f"import {module}")
        _check_list(env, expected)
        _check_plugins(env)
        _check_env(env, expected)
    return env.complaints


def _torch_only(folder: Path) -> Path:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith(("torch==", "torchvision=="))]
    file = folder / "torch.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def _versions(env: Environment) -> str:
    interesting = {"torch", "numpy", "mujoco", "mujoco-mjx", "warp-lang", "jax", "playground", "mjlab", "isaaclab"}
    interesting |= {"gymnasium", "rsl-rl-lib", "wandb", "neptune", "onnx", "viser"}
    found = {item["name"].lower(): item["version"] for item in json.loads(env.run("pip", "list", "--format", "json"))}
    return ", ".join(f"{name} {found[name]}" for name in sorted(interesting & found.keys()))


def _check_list(env: Environment, expected: Expected) -> None:
    report = {item["name"]: item for item in json.loads(env.run("sim-rl", "list", "--json"))}
    print("  " + ", ".join(f"{name}: {len(item['tasks'])} tasks" for name, item in report.items() if item["tasks"]))
    env.expect(tuple(report) == SIMULATORS, f"`sim-rl list` shows {', '.join(report)}, not {', '.join(SIMULATORS)}")
    wanted = {"mujoco", expected.simulator} - {None}
    for name, item in report.items():
        package = "sim-rl-plugin" if name == "mujoco" else f"sim-rl-plugin[{name}]"
        env.expect(item["install"] == f'pip install "{package}"', f"{name} is installed by {item['install']}")
        env.expect(not item["problem"], f"{name}: {item['problem']}")
        env.expect(bool(item["tasks"]) == item["installed"], f"{name} lists {len(item['tasks'])} tasks")
        if name in wanted:
            env.expect(item["installed"], f"{name} is not installed: {item['missing']}")
    # The text is for people: the same, and what is missing with its remedy.
    text = env.run("sim-rl", "list")
    for name, item in report.items():
        status = "installed" if item["installed"] else f"not installed: {item['install']}"
        env.expect(f"{name}  ({status})" in text, f"`sim-rl list` does not say {name}  ({status})")


def _check_plugins(env: Environment) -> None:
    report = json.loads(env.run("sim-rl", "plugins", "--json"))
    env.expect(not report["failures"] and not report["duplicates"], f"`sim-rl plugins`: {report['failures']}")
    names = {plugin["name"] for plugin in report["plugins"]}
    env.expect(names == {"builtin", *SIMULATORS}, f"`sim-rl plugins` shows {sorted(names)}")
    env.expect("[needs " in env.run("sim-rl", "plugins"), "`sim-rl plugins` does not say what is missing")


def _check_env(env: Environment, expected: Expected) -> None:
    """Step one task of the extra's simulator, and be told about one that is not there."""
    if expected.simulator is not None:
        command = ("sim-rl", "check-env", "--sim", expected.simulator, "--task", expected.task, "--device", "cpu")
        if expected.refusal:
            output = env.run(*command, status=2)
            env.expect(expected.refusal in output, f"`{' '.join(command)}` says {output}")
        else:
            output = env.run(*command)
        print("  " + (output.strip().splitlines() or ["nothing"])[-1], flush=True)
    missing = next(name for name in ("mjlab", "isaaclab") if name != expected.simulator)
    output = env.run("sim-rl", "train", "--sim", missing, "--task", "T", status=2)
    hint = f'pip install "sim-rl-plugin[{missing}]"'
    env.expect(hint in output, f"`sim-rl train --sim {missing}` does not say {hint}, but {output}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", default=list(EXTRAS), metavar="EXTRA")
    parser.add_argument("--latest", action="store_true", help="without the pinned versions, except torch's")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.extras if name not in EXTRAS]
    if unknown:
        parser.error(f"no extra {', '.join(unknown)}; there are {', '.join(EXTRAS)}")
    failed = False
    for name in arguments.extras:
        complaints = try_extra(name, arguments.latest)
        failed = failed or bool(complaints)
        print(f"{name}: {'FAILED' if complaints else 'as it should be'}", flush=True)
        for complaint in complaints:
            print(f"  {complaint}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
