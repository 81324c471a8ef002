"""The documentation says what the code does."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from sim_rl_plugin import hooks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SPECS = [name for name in vars(hooks) if name.startswith("sim_rl_")]


def test_every_hook_has_a_heading_and_every_heading_a_hook():
    headings = re.findall(r"^## (\S+)$", (ROOT / "docs" / "hooks.md").read_text(), re.MULTILINE)
    assert headings == SPECS


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_called_in_the_tree_and_in_a_test(name: str):
    # Hooks that return entries are called by the name of their kind.
    kind = name.removeprefix("sim_rl_")
    sources = [path for path in (ROOT / "sim_rl_plugin").rglob("*.py") if path.name not in ("hooks.py", "builtin.py")]
    assert any(f'"{name}"' in path.read_text() or f'"{kind}"' in path.read_text() for path in sources)
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(name in path.read_text() for path in tests)


def test_the_page_names_every_parameter_of_a_hook():
    text = (ROOT / "docs" / "hooks.md").read_text()
    for name in SPECS:
        parameters = list(inspect.signature(getattr(hooks, name)).parameters)
        if parameters:
            assert f"`{name}({', '.join(parameters)})`" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile(page: Path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def test_commands_of_the_readme_exist():
    from sim_rl_plugin import registry

    used = set(re.findall(r"^sim-rl ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used == set(registry.names("commands"))


def test_config_keys_that_the_pages_name_exist():
    from sim_rl_plugin.algorithms import PPO, Distillation
    from sim_rl_plugin.config import RunConfig

    known = {name for algorithm in (PPO, Distillation) for name in inspect.signature(algorithm.__init__).parameters}
    for page in PAGES:
        for section, key in re.findall(r"`(algorithm)\.(\w+)", page.read_text()):
            assert key in known | {"class_name"}, f"{page.name}: {section}.{key}"
    defaults = yaml.safe_load((ROOT / "configs" / "mujoco" / "_default.yaml").read_text())
    assert set(defaults) <= set(RunConfig.model_fields)
