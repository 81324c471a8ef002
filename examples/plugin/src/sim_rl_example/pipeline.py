"""A training in two stages: first with a strong motor, then with the one that the pendulum has."""

from sim_rl_plugin.pipelines import Pipeline, Stage

CURRICULUM = Pipeline(
    (
        Stage("strong", "A motor that lifts the pendulum directly", settings={"env": {"max_torque": 10.0}}),
        Stage("weak", "The motor that has to swing", inputs=("strong",), continues="strong"),
    ),
    reference="weak",
)
