"""What a pipeline may look like."""

import pytest

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.pipelines import Pipeline, Stage


def test_stages_keep_their_order_and_the_first_is_the_reference():
    pipeline = Pipeline(
        (Stage("first"), Stage("second", inputs=("first",)), Stage("third", inputs=("first", "second")))
    )
    assert pipeline.names == ["first", "second", "third"]
    assert pipeline.reference == "first"


@pytest.mark.parametrize(
    ("stages", "reference", "message"),
    [
        ((), "", "a pipeline has at least one stage"),
        ((Stage("a"), Stage("a")), "", "two stages are called 'a'"),
        ((Stage("a.b"),), "", "a stage cannot be called 'a.b'"),
        ((Stage("common"),), "", "a stage cannot be called 'common'"),
        ((Stage("a", inputs=("b",)), Stage("b")), "", "a.inputs: there is no stage 'b' before it"),
        ((Stage("a"), Stage("b", inputs="a")), "", "b.inputs: expected a tuple of names, found 'a'"),
        ((Stage("a", same_budget_as=("c",)),), "", "a.same_budget_as: there is no stage 'c' before it"),
        ((Stage("a"), Stage("b", continues="a")), "", "b.continues: expected one of its inputs, found 'a'"),
        ((Stage("teacher"),), "techer", "unknown stage in reference: 'techer': did you mean 'teacher'?"),
    ],
)
def test_a_definition_that_cannot_run_is_refused(stages, reference, message):
    with pytest.raises(UserError) as caught:
        Pipeline(stages, reference)
    assert str(caught.value).startswith(message)


def test_settings_may_follow_from_earlier_stages():
    fixed, derived = Stage("a", settings={"num_envs": 3}), Stage("b", settings=lambda earlier: {"seed": earlier["a"]})
    assert fixed.derive({}) == {"num_envs": 3}
    assert derived.derive({"a": 5}) == {"seed": 5}
