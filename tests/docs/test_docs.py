"""The documentation says what the code does."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, page_name

from sim_rl_plugin import hooks

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


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(path), f"{page.name} links to {target}#{anchor}"


def test_the_readme_names_folders_that_exist():
    (tree,) = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    folders = re.findall(r"^(\w+)/", tree, re.MULTILINE) + re.findall(r"adapters/(?=sim)|(?<=[ ,])sim_rl_\w+", tree)
    assert len(folders) > 6
    for name in folders:
        assert (ROOT / name).is_dir() or (ROOT / "adapters" / name).is_dir(), name


def test_commands_of_the_readme_exist():
    from sim_rl_plugin import registry

    used = set(re.findall(r"^sim-rl ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used == set(registry.names("commands"))


def test_config_keys_that_the_pages_name_exist():
    from sim_rl_plugin.algorithms import PPO, Distillation
    from sim_rl_plugin.config import RunConfig

    known = {name for algorithm in (PPO, Distillation) for name in inspect.signature(algorithm.__init__).parameters}
    for page in PAGES:
        for section, key in re.findall(r"`(algorithm)\.(?!py\b)(\w+)", page.read_text()):
            assert key in known | {"class_name"}, f"{page.name}: {section}.{key}"
    defaults = yaml.safe_load((ROOT / "configs" / "mujoco" / "_default.yaml").read_text())
    assert set(defaults) <= set(RunConfig.model_fields)
