"""Stages one after the other: skipped, resumed, refused, compared."""

import json
from pathlib import Path

import pytest
import torch
from pipeline_runs import in_a_process, iterations, owned_by_a_process, same

from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.pipelines.plan import load_plan
from sim_rl_plugin.pipelines.running import run_pipeline

LAST = {"easy": "model_2.pt", "hard": "model_4.pt", "direct": "model_7.pt"}
"""``direct`` takes 3 + 5 iterations."""


def test_one_command_trains_evaluates_and_compares(curriculum, sim_rl):
    result = sim_rl("pipeline", "run", curriculum)
    assert result.exit_code == 0, result.output
    folder = Path("runs/pipelines/walk")
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "easy", "hard", "direct", "pipeline.yaml", "results.json", "results.md", "results.png",
    }  # fmt: skip
    for stage, checkpoint in LAST.items():
        assert (folder / stage / checkpoint).is_file()
        assert read_mapping(folder / stage / "config.yaml")["task"] == "Go"
    assert read_mapping(folder / "hard/config.yaml")["init_from"] == str(folder / "easy")
    assert read_mapping(folder / "direct/config.yaml")["init_from"] is None

    results = json.loads((folder / "results.json").read_text())
    assert results["evaluation"] == {"episodes": 3, "seed": 7}
    stages = {stage["stage"]: stage for stage in results["stages"]}
    assert {name: stage["control_steps"] for name, stage in stages.items()} == {"easy": 96, "hard": 160, "direct": 256}
    assert stages["hard"]["percent_of_reference"] == 100.0
    # Evaluated in the common environment, whose episodes are longer than those that `easy` trained on.
    assert all(len(stage["returns"]) == 3 and max(stage["episode_lengths"]) == 6 for stage in stages.values())
    assert (folder / "results.md").read_text().splitlines()[2].startswith("| stage | return | std |")
    heading = next(line for line in result.output.splitlines() if line.startswith("stage"))
    assert heading.split("  ")[0] == "stage" and "% of hard" in heading and "training time" in heading
    assert (folder / "results.png").stat().st_size > 10_000


def test_episodes_of_the_evaluation_are_the_same_for_every_stage(curriculum, sim_rl):
    """Two stages with one policy: the returns must be equal, episode by episode."""
    from sim_rl_plugin.pipelines import running

    plan = load_plan(curriculum, ["hard.max_iterations=3", "easy.env={}"])
    results = run_pipeline(plan, Path("run"), say=lambda line: None)
    easy = next(stage for stage in plan.stages if stage.name == "easy")
    saved = running.find_run(Path("run/easy"))
    again = running._play(plan, easy, saved, "cpu")
    assert again.returns == results[0].evaluation.returns


def test_complete_stages_are_skipped_and_the_result_stays(curriculum, sim_rl):
    assert sim_rl("pipeline", "run", curriculum).exit_code == 0
    folder = Path("runs/pipelines/walk")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    numbers = (folder / "results.json").read_bytes()
    result = sim_rl("pipeline", "run", curriculum)
    assert result.exit_code == 0, result.output
    for name, count in (("easy", 3), ("hard", 5), ("direct", 8)):
        assert f"{name}: complete, {count} iterations, skipped" in result.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert (folder / "results.json").read_bytes() == numbers


@pytest.mark.parametrize("at", ["easy:0", "hard:3", "direct:6"])
def test_killed_anywhere_and_run_again_it_ends_bit_for_bit_the_same(curriculum, sim_rl, at):
    """`hard:3` dies after checkpoint 2 and does iteration 3 again; `easy:0` dies before any checkpoint."""
    assert sim_rl("pipeline", "run", curriculum, "--run-dir", "straight").exit_code == 0
    killed = in_a_process("pipeline", "run", curriculum, "--run-dir", "parts", at=at)
    assert killed.returncode == -9
    assert not Path("parts/results.json").exists()
    result = sim_rl("pipeline", "run", curriculum, "--run-dir", "parts")
    assert result.exit_code == 0, result.output
    stage, iteration = at.split(":")
    if iteration != "0":
        assert f"{stage}: continues after" in result.output
    for name, checkpoint in LAST.items():
        same(*(torch.load(Path(root) / name / checkpoint) for root in ("straight", "parts")), name)
        assert iterations(Path("parts") / name) == iterations(Path("straight") / name)
    assert Path("parts/results.json").read_bytes() == Path("straight/results.json").read_bytes()


def test_a_stage_does_not_depend_on_what_ran_before_it_in_the_process(curriculum, sim_rl):
    assert sim_rl("pipeline", "run", curriculum).exit_code == 0
    config = "runs/pipelines/walk/direct/config.yaml"
    alone = sim_rl("train", "--config", config, "--run-dir", "alone", "--no-video", "--eval-episodes", 0)
    assert alone.exit_code == 0, alone.output
    same(*(torch.load(f"{folder}/model_7.pt") for folder in ("runs/pipelines/walk/direct", "alone")))


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(curriculum, sim_rl):
    arguments = ("pipeline", "run", curriculum, "--run-dir", "my run", "--seed", 3, "hard.max_iterations=4")
    stopped = in_a_process(*arguments, at="hard:1", signal="SIGINT")
    assert stopped.returncode == 130, stopped.stderr
    assert "hard: stopped after" in stopped.stdout
    assert (
        f"continue with: sim-rl pipeline run {curriculum} --run-dir 'my run' --seed 3 hard.max_iterations=4"
    ) in stopped.stdout
    result = sim_rl(*arguments)
    assert result.exit_code == 0, result.output
    assert iterations(Path("my run/hard")) == [0, 1, 2, 3]


def test_changed_settings_are_refused_by_name_until_the_stage_is_done_again(curriculum, sim_rl):
    assert sim_rl("pipeline", "run", curriculum).exit_code == 0
    change = ("common.algorithm.gamma=0.9", "direct.max_iterations=2")
    result = sim_rl("pipeline", "run", curriculum, *change)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: easy was trained with other settings: algorithm.gamma: unset then, 0.9 now; say --redo easy "
        "--redo hard --redo direct to train anew, or choose another folder with --run-dir\n"
    )
    result = sim_rl("pipeline", "run", curriculum, "direct.max_iterations=2")
    assert "direct was trained with other settings: max_iterations: 8 then, 2 now; say --redo direct" in result.stderr
    result = sim_rl("pipeline", "run", curriculum, "direct.max_iterations=2", "--redo", "direct")
    assert result.exit_code == 0, result.output
    folder = Path("runs/pipelines/walk")
    assert iterations(folder / "direct") == [0, 1]
    assert iterations(folder / "direct.superseded1") == list(range(8))
    # What is shown and kept may change.
    result = sim_rl("pipeline", "run", curriculum, "direct.max_iterations=2", "common.save_interval=9")
    assert result.exit_code == 0, result.output


def test_done_again_are_those_too_that_start_from_it(curriculum, sim_rl):
    assert sim_rl("pipeline", "run", curriculum).exit_code == 0
    result = sim_rl("pipeline", "run", curriculum, "--redo", "easy")
    assert result.exit_code == 0, result.output
    folder = Path("runs/pipelines/walk")
    assert {path.name for path in folder.glob("*.superseded*")} == {"easy.superseded1", "hard.superseded1"}
    assert "direct: complete" in result.output
    result = sim_rl("pipeline", "run", curriculum, "--redo", "eazy")
    assert result.stderr == "error: unknown stage in --redo: 'eazy': did you mean 'easy'?\n"


def test_a_stage_whose_input_was_exchanged_is_refused(curriculum, sim_rl):
    assert sim_rl("pipeline", "run", curriculum).exit_code == 0
    folder = Path("runs/pipelines/walk")
    checkpoint = folder / "easy/model_2.pt"
    contents = torch.load(checkpoint)
    contents["actor_state_dict"]["mlp.0.weight"] += 1.0
    torch.save(contents, checkpoint)
    result = sim_rl("pipeline", "run", curriculum)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: hard was not trained from the easy that is there now: say --redo hard")


def test_a_folder_that_holds_something_else_is_left_alone(curriculum, sim_rl):
    Path("thesis").mkdir()
    Path("thesis/easy").mkdir()
    Path("thesis/easy/chapter.txt").write_text("hello")
    result = sim_rl("pipeline", "run", curriculum, "--run-dir", "thesis")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: thesis holds something other than a pipeline")
    assert Path("thesis/easy/chapter.txt").read_text() == "hello"
    assert sim_rl("pipeline", "run", curriculum).exit_code == 0
    record = Path("runs/pipelines/walk/pipeline.yaml")
    record.write_text(record.read_text().replace("curriculum", "other"))
    result = sim_rl("pipeline", "run", curriculum)
    assert result.stderr.startswith("error: runs/pipelines/walk holds the pipeline 'other', not 'curriculum'")


def test_a_second_process_stays_out(curriculum, sim_rl):
    Path("run").mkdir()
    with owned_by_a_process(Path("run")) as number:
        result = sim_rl("pipeline", "run", curriculum, "--run-dir", "run")
    assert result.exit_code == 2
    assert f"error: process {number} on " in result.stderr
    assert "is running the pipeline in run: wait for its end, or stop it" in result.stderr


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 75)])
def test_signals_of_clusters_stop_a_pipeline_with_a_checkpoint_and_their_status(curriculum, sim_rl, name, status):
    arguments = ("pipeline", "run", curriculum, "--run-dir", "run")
    stopped = in_a_process(*arguments, at="hard:1", signal=name)
    assert stopped.returncode == status, stopped.stderr
    assert "hard: stopped after 2 of 5 iterations" in stopped.stdout
    assert f"continue with: sim-rl pipeline run {curriculum} --run-dir run" in stopped.stdout
    assert sim_rl(*arguments).exit_code == 0
    assert iterations(Path("run/hard")) == [0, 1, 2, 3, 4]


def test_what_a_kill_left_half_written_in_the_folder_does_not_make_it_another_one(curriculum, sim_rl):
    Path("run").mkdir()
    Path("run/.unfinished.pipeline.yaml.abc").write_text("pipel")
    assert sim_rl("pipeline", "run", curriculum, "--run-dir", "run", "stages=[easy,hard]").exit_code == 0
    assert not list(Path("run").glob(".unfinished*"))


def test_show_and_list_say_what_there_is(curriculum, sim_rl):
    result = sim_rl("pipeline", "show", curriculum)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[2][:4] == ["easy", "PPO", "-", "96"]
    assert lines[3][:4] == ["hard", "PPO", "easy", "160"]
    assert result.output.count("not started") == 3
    assert not Path("runs").exists()
    assert sim_rl("pipeline", "run", curriculum, "stages=[easy,hard]").exit_code == 0
    assert "complete, 5 iterations" in sim_rl("pipeline", "show", curriculum).output
    listed = sim_rl("pipeline", "list").output
    assert "teacher-student" in listed
    assert "  direct (optional)  Long ones from the start" in listed
