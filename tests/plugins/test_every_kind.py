"""Every kind of entry reaches its registry."""

import pytest

from sim_rl_plugin import plugins, registry
from sim_rl_plugin.hooks import Entry, hookimpl


class Everything:
    @hookimpl
    def sim_rl_algorithms(self):
        return [Entry("an-algorithm", "fractions:Fraction")]

    @hookimpl
    def sim_rl_models(self):
        return [Entry("a-model", "fractions:Fraction")]

    @hookimpl
    def sim_rl_runners(self):
        return [Entry("a-runner", "fractions:Fraction")]

    @hookimpl
    def sim_rl_log_writers(self):
        return [Entry("a-writer", "fractions:Fraction")]

    @hookimpl
    def sim_rl_adapters(self):
        return [Entry("a-simulator", "fractions:Fraction")]

    @hookimpl
    def sim_rl_pipelines(self):
        return [Entry("a-pipeline", "fractions:Fraction")]

    @hookimpl
    def sim_rl_launchers(self):
        return [Entry("a-launcher", "fractions:Fraction")]

    @hookimpl
    def sim_rl_commands(self):
        return [Entry("a-command", "fractions:Fraction")]


NAMES = {
    "algorithms": "an-algorithm", "models": "a-model", "runners": "a-runner", "log_writers": "a-writer",
    "adapters": "a-simulator", "pipelines": "a-pipeline", "launchers": "a-launcher", "commands": "a-command",
}  # fmt: skip


@pytest.mark.parametrize("kind", registry.KINDS)
def test_an_entry_is_found_and_loaded(kind: str):
    from fractions import Fraction

    plugins.get_manager().register(Everything(), "everything")
    try:
        assert NAMES[kind] in registry.names(kind)
        assert registry.load(kind, NAMES[kind]) is Fraction
    finally:
        plugins.get_manager().unregister("everything")
    assert NAMES[kind] not in registry.names(kind)
