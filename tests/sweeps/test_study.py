"""What to try next, what to prune, and a journal that survives kills, without training anything."""

from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs the extra 'sweep'")

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.sweeps.definition import load_sweep
from sim_rl_plugin.sweeps.report import best_of
from sim_rl_plugin.sweeps.study import Study, read_journal

JOURNAL = Path("study.journal")
SPACE = {
    "env.bonus": {"distribution": "float", "low": 0.0, "high": 1.0},
    "algorithm.learning_rate": {"distribution": "log", "low": 1e-5, "high": 1e-1},
    "num_envs": {"distribution": "log_int", "low": 2, "high": 64},
    "actor.hidden_dims": {"distribution": "categorical", "choices": [[8], [8, 8]]},
}


def run(study: Study, curve: list[float]) -> dict:
    """Try one more setting whose metric takes these values, and return its record's values."""
    trial = study.next()
    for step, value in enumerate(curve):
        if study.report(trial, step, value):
            study.prune(trial, step + 1)
            break
    else:
        study.finish(trial, len(curve))
    return study.record(trial).values


def test_a_search_that_is_opened_again_for_each_trial_proposes_what_one_does_that_never_ended(sweep_file):
    sweep = load_sweep(sweep_file(parameters=SPACE, sampler={"class_name": "TPESampler", "n_startup_trials": 2}))
    whole = Study(sweep, JOURNAL)
    expected = [run(whole, [float(number)]) for number in range(5)]
    parts = [run(Study(sweep, Path("parts.journal")), [float(number)]) for number in range(5)]
    assert parts == expected
    assert len({values["env.bonus"] for values in expected}) == 5
    for values in expected:
        assert 1e-5 <= values["algorithm.learning_rate"] <= 1e-1
        assert isinstance(values["num_envs"], int)
        assert values["actor.hidden_dims"] in ([8], [8, 8])


def test_the_seed_of_the_sampler_counts(sweep_file):
    def first(seed):
        sweep = load_sweep(sweep_file(sampler={"class_name": "RandomSampler", "seed": seed}))
        return run(Study(sweep, Path(f"{seed}.journal")), [0.0])

    assert first(0) != first(1)


def test_a_trial_that_was_cut_off_keeps_its_settings_and_its_values(sweep_file):
    sweep = load_sweep(sweep_file(parameters=SPACE))
    study = Study(sweep, JOURNAL)
    trial = study.next()
    study.report(trial, 0, 3.0)
    again = Study(sweep, JOURNAL)
    (cut_off,) = again.cut_off()
    assert again.record(cut_off) == study.record(trial)
    assert not again.report(cut_off, 0, 99.0)  # trained once more from an older checkpoint: the first value stays
    assert again.record(cut_off).reports == {0: 3.0}
    again.report(cut_off, 1, 5.0)
    again.finish(cut_off, 2)
    assert [record.result for record in again.records()] == [5.0]
    assert not Study(sweep, JOURNAL).cut_off()


def test_what_a_kill_left_half_written_is_taken_away_by_the_owner_alone(sweep_file):
    sweep = load_sweep(sweep_file())
    run(Study(sweep, JOURNAL), [1.0])
    lock = Path("study.journal.lock")
    with JOURNAL.open("ab") as file:
        file.write(b'{"op_code": 5, "wor')
    lock.symlink_to(JOURNAL)
    torn = JOURNAL.read_bytes()
    assert [record.result for record in read_journal(sweep, JOURNAL)] == [1.0]
    assert JOURNAL.read_bytes() == torn
    assert lock.is_symlink()
    run(Study(sweep, JOURNAL), [2.0])
    assert [record.result for record in Study(sweep, JOURNAL).records()] == [1.0, 2.0]


def test_a_file_that_is_no_journal_is_refused(sweep_file):
    JOURNAL.write_text("[1]\n[2]\n")
    with pytest.raises(UserError, match=r"study\.journal cannot be read as the journal of a sweep"):
        Study(load_sweep(sweep_file()), JOURNAL)


@pytest.mark.parametrize(("direction", "is_pruned"), [("maximize", True), ("minimize", False)])
def test_a_trial_that_is_worse_than_the_median_is_pruned(sweep_file, direction, is_pruned):
    file = sweep_file(pruner={"class_name": "MedianPruner", "n_startup_trials": 3}, objective={"direction": direction})
    sweep = load_sweep(file)
    study = Study(sweep, JOURNAL)
    for number in (3.0, 4.0, 5.0):
        run(study, [number, number])
    run(study, [3.5, 3.5])
    record = study.records()[-1]
    assert record.state == ("pruned" if is_pruned else "complete")
    assert record.iterations == (1 if is_pruned else 2)
    assert best_of(sweep, study.records()).number == (2 if is_pruned else 0)


def test_the_result_is_the_mean_over_seeds_of_the_mean_of_the_last_values(sweep_file):
    sweep = load_sweep(sweep_file(seeds=[1, 2], objective={"mean_over": 2}))
    study = Study(sweep, JOURNAL)
    trial = study.next()
    # Four iterations each; the second seed's last evaluation failed.
    for step, value in {0: 9.0, 1: 9.0, 2: 1.0, 3: 3.0, 4: 9.0, 5: 4.0, 6: 6.0}.items():
        study.report(trial, step, value)
    assert study.record(trial).result == ((1.0 + 3.0) / 2 + (4.0 + 6.0) / 2) / 2
    assert study.record(trial).iterations == 4 + 3


def test_a_result_that_is_no_number_is_a_failure(sweep_file):
    study = Study(load_sweep(sweep_file()), JOURNAL)
    run(study, [1.0, float("nan")])
    (record,) = study.records()
    assert (record.state, record.error) == ("failed", "its 'Train/mean_reward' is nan, which is no number")


def test_a_grid_is_tried_out_once_and_ends(sweep_file):
    parameters = {
        "env.bonus": {"distribution": "float", "low": 0.0, "high": 1.0, "step": 0.5},
        "actor.hidden_dims": {"distribution": "categorical", "choices": [[8], [8, 8]]},
    }
    sweep = load_sweep(sweep_file(parameters=parameters, sampler="GridSampler", budget={"trials": 50}))
    tried = [run(Study(sweep, JOURNAL), [0.0]) for _ in range(6)]
    expected = [{"env.bonus": bonus, "actor.hidden_dims": dims} for bonus in (0.0, 0.5, 1.0) for dims in ([8], [8, 8])]
    assert sorted(map(str, tried)) == sorted(map(str, expected))
    assert Study(sweep, JOURNAL).next() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "TPESampel"}, "unknown class in sampler.class_name: 'TPESampel': did you mean 'TPESampler'?"),
        ({"pruner": "MedianPrunr"}, "unknown class in pruner.class_name: 'MedianPrunr': did you mean 'MedianPruner'?"),
        ({"sampler": {"class_name": "TPESampler", "n_startup": 1}}, "'sampler.n_startup': did you mean"),
        (
            {"pruner": {"class_name": "MedianPruner", "n_startup_trials": "5"}},
            "pruner.n_startup_trials: expected an integer, found '5'",
        ),
        ({"pruner": {"class_name": "PercentilePruner"}}, "pruner.percentile is missing"),
        ({"pruner": {"class_name": "PercentilePruner", "percentile": 101.0}}, "pruner: PercentilePruner: Percentile"),
        ({"sampler": {}}, "sampler: expected a mapping with 'class_name', found {}"),
        ({"sampler": "GridSampler"}, "parameters.env.bonus: a grid needs values to count"),
    ],
)
def test_samplers_and_pruners_are_checked_against_their_constructors(sweep_file, changes, message):
    with pytest.raises(UserError) as raised:
        Study(load_sweep(sweep_file(**changes)), JOURNAL)
    assert message in str(raised.value)
    assert not JOURNAL.exists()
