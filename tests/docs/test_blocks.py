"""Every code block of every page works, in the order of the page, for somebody who starts with an empty folder."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_follower import Follower
from pages import PAGES, ROOT, Block, blocks_of, page_name


@pytest.fixture
def follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follower]:
    follower = Follower(tmp_path, monkeypatch)
    yield follower
    follower.close()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_who_follows_the_page_gets_to_its_end(page: Path, follower: Follower):
    for block in blocks_of(page.read_text(), page_name(page)):
        follower.follow(block)
    follower.finish()
    LEFT.get(page_name(page), lambda follower: None)(follower)


def _the_contract_was_tested_as_often_as_the_page_says(follower: Follower) -> None:
    assert "eighteen tests" in (ROOT / "docs" / "adapters.md").read_text()
    assert any("18 passed" in output for output in follower.outputs)


def _the_algorithm_was_trained_on_the_simulator(follower: Follower) -> None:
    assert any("torch-pendulum" in output and "AnnealedPPO" in output for output in follower.outputs)
    first, second = sorted(Path("runs", "Swingup").iterdir())
    for run, final in ((first, 0.0), (second, 0.002)):
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        # After one of 80 updates, of the way from 0.01.
        assert float(rows[1]["Loss/entropy_coef"]) == pytest.approx(0.01 + (final - 0.01) / 80)
    assert "weak" in follower.outputs[-1]


LEFT = {
    "docs/adapters.md": _the_contract_was_tested_as_often_as_the_page_says,
    "docs/plugin.md": _the_algorithm_was_trained_on_the_simulator,
}
"""What there must be at the end of a page."""


def test_the_plugin_page_has_the_files_of_the_example_package():
    page = ROOT / "docs" / "plugin.md"
    written = {block.file_name: block.file_text for block in blocks_of(page.read_text(), "plugin.md")}
    folder = ROOT / "examples" / "plugin"
    files = [path for path in folder.rglob("*.*") if path.suffix in (".py", ".toml", ".yaml")]
    texts = {f"sim-rl-example/{path.relative_to(folder)}": path.read_text() for path in files}
    assert {name: text for name, text in written.items() if name} == texts


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("python", "from sim_rl_plugin.runners import OnPolicyRuner", "cannot import name"),
        ("python", "env.step(missing)", "name 'missing' is not defined"),
        ("yaml", "algorithm: {learning_rat: 1.0}", "did you mean 'algorithm.learning_rate'"),
        ("yaml", "pipeline: teacher-student\nteachr: {}", "teachr"),
        ("toml", "[project.entry-points.sim_rl_plugins]\nmine = 'x'", "sim_rl_plugin"),
        ("xml", "<mujoco><worldbody><body><joint/></body></worldbody></mujoco>", "mass and inertia"),
        ("bash", "sim-rl train --task Hoper", "did you mean 'Hopper'"),
        ("bash", "sim-rl list --simulator mujoco", "No such option"),
        ("bash", "sim-rl list | head", "unexpected extra argument"),
        ("bash", "pip install sim-rl-plugin", "say <!-- not run: why -->"),
        ("bash", "make test", "how is 'make' tested"),
        ("bash", "cd nowhere", "No such file"),
        ("bash", "pytest nowhere", "nowhere"),
    ],
)
def test_a_wrong_block_fails(language: str, text: str, message: str, follower: Follower):
    with pytest.raises(AssertionError, match="page:1") as caught:
        follower.follow(Block("page:1", language, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sim-rl train --sim mjx --task T --num-env 3", "--num-env"),
        ("sim-rl train --sim mjlab --task T env.task_option={}", "task_option"),
        ("sim-rl train --sim isaaclab --task T algorithm.gama=0.9", "did you mean 'algorithm.gamma'"),
        ("sim-rl pipeline rum FILE", "rum"),
        ("srun sim-rl train --resum-latest", "--resum"),
        ("isaaclab train --external_callback sim_rl_isaaclab.takeover.callback_of_ours", "callback_of_ours"),
        ('pip install "sim-rl-plugin[mjxx]"', "no extras mjxx"),
        ("pip install --constraint constraint.txt torch", "there is no constraint.txt"),
        ("make trian", "make"),
        ("python benchmarks/learner.py --round 3 --loads none", "SystemExit"),
        ("python benchmarks/nothing.py", "there is no"),
        ("if true; then", "bash"),
    ],
)
def test_a_wrong_line_fails_where_it_is_not_run_too(text: str, message: str, follower: Follower):
    with pytest.raises(AssertionError, match="page:1") as caught:
        follower.follow(Block("page:1", "bash", text, not_run="it takes hours"))
    assert message in str(caught.value)


@pytest.mark.parametrize("command", ["[sim-rl, train, --tsk, Ant]", "[sim-rl, train, algorithm.gama=0.9]", "[sim-rl"])
def test_a_wrong_command_fails_in_the_yaml_of_others_too(command: str, follower: Follower):
    text = "kind: Job\nspec:\n  containers:\n    - {name: walk, command: %s}\n"
    follower.follow(Block("page:1", "yaml", text % "[sim-rl, train, --task, Ant]", not_run="it needs a cluster"))
    with pytest.raises(AssertionError, match="page:1"):
        follower.follow(Block("page:1", "yaml", text % command, not_run="it needs a cluster"))


def test_only_shell_lines_and_yaml_can_be_left_out(follower: Follower):
    with pytest.raises(AssertionError, match="only shell lines"):
        follower.follow(Block("page:1", "python", "pass", not_run="it takes hours"))


def test_a_file_that_nothing_uses_fails(follower: Follower):
    follower.follow(Block("page:1", "python", "# task.py\nvalue = 1\n"))
    follower.follow(Block("page:9", "yaml", "# task.yaml\ntask: Ant\n"))
    with pytest.raises(AssertionError, match=r"nothing on the page uses task\.py") as caught:
        follower.finish()
    assert "page:9: nothing on the page uses task.yaml" in str(caught.value)
    follower.follow(Block("page:20", "python", "import task"))
    follower.follow(Block("page:30", "bash", "sim-rl train --config task.yaml"))
    follower.finish()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nls\n```\n", "page:1: a code block is one of"),
        ("```sh\nls\n```\n", "page:1: a code block is one of"),
        ("- a\n  ```bash\n  ls\n  ```\n", "page:2: a code block begins at the margin"),
        ("```bash\nls\n", "page:1: a code block is not closed"),
    ],
)
def test_a_block_that_would_be_overlooked_fails(text: str, message: str):
    with pytest.raises(AssertionError, match=message):
        blocks_of(text, "page")
