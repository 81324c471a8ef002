"""docs/adapters.md names the files that it tells to write, and the members that are needed."""

import re

from pages import ROOT, blocks_of

from sim_rl_plugin.env import foreign

PAGE = (ROOT / "docs" / "adapters.md").read_text()


<<<<<<< HEAD
def test_its_files_are_those_that_it_lists():
    written = {block.file_name for block in blocks_of(PAGE, "adapters.md") if block.file_name}
    listed = set(re.findall(r"^(my-sim/\S+)", PAGE, re.MULTILINE))
    assert written | {"my-sim/my_sim/__init__.py"} == listed
=======
@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, where it says that they lie."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "my_sim").mkdir()
    (folder / "my_sim" / "__init__.py").touch()
    for _, text in BLOCKS:
        if name := re.match(r"# (\S+\.(py|toml))\n", text):
            (folder / name[1]).write_text(text)
    return folder


@pytest.fixture(scope="module")
def package(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which it is installed, with its test beside it."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(site), str(source)], check=True)
    shutil.copy(source / "test_my_sim.py", site)
    return site


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)


def test_its_files_are_those_that_it_lists(source: Path):
    listed = re.findall(r"^my-sim/(\S+)", PAGE, re.MULTILINE)
    assert {str(path.relative_to(source)) for path in source.rglob("*.*")} == set(listed)


def test_its_contract_tests_pass_and_are_as_many_as_it_says(package: Path):
    result = run(package, "pytest", "-q", "-p", "no:cacheprovider", "test_my_sim.py")
    assert result.returncode == 0, result.stdout
    assert "eighteen tests" in PAGE and "18 passed" in result.stdout


def test_its_commands_work(package: Path):
    commands = re.findall(r"^sim-rl (.*--sim my-sim.*)$", PAGE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["list", "check-env", "train"]
    short = ["--max-iterations", "2", "--eval-episodes", "1", "--no-video", "env.max_force_n=2.0"]
    for command in commands:
        more = short if command.startswith("train") else []
        result = run(package, "sim_rl_plugin", *command.split(), *more)
        assert result.returncode == 0, result.stdout + result.stderr
    typo = run(package, "sim_rl_plugin", "train", "--sim", "my-sim", "--task", "Cart", "env.max_force=2.0")
    assert "did you mean 'env.max_force_n'" in typo.stderr
>>>>>>> viewer


def test_the_members_it_names_are_the_ones_that_are_needed():
    (table,) = re.findall(r"\| member \| meaning \|\n(.*?)\n\n", PAGE, re.DOTALL)
    named = re.findall(r"`(\w+)(?:\([\w]*\))?`", "\n".join(row.split("|")[1] for row in table.splitlines()))
    assert sorted(named) == sorted(foreign.REQUIRED)
<<<<<<< HEAD
=======


def test_its_first_lines_train(tmp_path: Path):
    lines = next(text for language, text in BLOCKS if language == "python")
    scope = {"my_env": LeggedGym(num_envs=8), "train_cfg": ppo_cfg()}
    lines = lines.replace("runs/mine", str(tmp_path)).replace("=100", "=2")
    exec(compile(lines, "docs/adapters.md", "exec"), scope)
    assert (tmp_path / "model_1.pt").is_file()


def test_its_lines_about_commands_are_true():
    (lines,) = [text for _, text in BLOCKS if "SteeredPointEnv" in text]
    exec(compile(lines, "docs/adapters.md", "exec"), {})
>>>>>>> viewer
