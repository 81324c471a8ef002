"""eval, play, check-env and plot, on a run that is there."""

import json
import sys
from pathlib import Path

import fake_lab
import numpy as np
import pytest
import torch

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plotting import Curve, mean_and_band, read_curve


@pytest.fixture
def run(install, sim_rl, tmp_path, monkeypatch) -> Path:
    install("lab")
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    result = sim_rl(
        "train", "--sim", "lab", "--task", "Reach", "--run-dir", folder, "--no-video", "--eval-episodes", 0,
        "env.interrupt_after=null",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    fake_lab.opened.clear()
    return folder


def test_eval_prints_statistics_and_json(run, sim_rl):
    result = sim_rl("eval", run, "--episodes", 5, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "Reach on lab" in result.output
    assert "length 6.0 steps, 5 episodes" in result.output
    report = json.loads(sim_rl("eval", run / "model_2.pt", "--episodes", 5, "--seed", 3, "--json").output)
    assert report["episode_lengths"] == [6] * 5
    assert report["mean"] == pytest.approx(np.mean(report["returns"]))
    assert report["std"] == pytest.approx(np.std(report["returns"]))
    assert f"return {report['mean']:.1f} ± {report['std']:.1f}" in result.output
    assert [env.num_envs for env in fake_lab.opened] == [5, 5]


def test_eval_runs_on_another_simulator_without_the_options_it_lacks(run, sim_rl):
    result = sim_rl("eval", run, "--sim", "other", "--episodes", 4, "--num-envs", 2)
    assert result.exit_code == 0, result.output
    assert "Reach on other" in result.output
    assert fake_lab.opened[-1].num_envs == 2


def test_a_log_writer_that_is_not_installed_here_does_not_matter(run, sim_rl):
    contents = torch.load(run / "model_2.pt")
    contents["sim_rl"]["config"]["logger"] = "wandb"
    torch.save(contents, run / "model_2.pt")
    assert sim_rl("eval", run, "--episodes", 1).exit_code == 0


def test_play_writes_a_video_where_there_is_no_display(run, sim_rl):
    result = sim_rl("play", run, "--steps", 12)
    assert result.exit_code == 0, result.output
    written = Path(result.output.removeprefix("video: ").strip())
    assert written.parent == run
    assert written.stat().st_size > 0


def test_play_writes_gif(run, sim_rl):
    from PIL import Image

    result = sim_rl("play", run, "--steps", 12, "--video", "out/p.gif")
    assert result.exit_code == 0, result.output
    with Image.open("out/p.gif") as picture:
        # The control step of 0.1 s is slower than the frame limit: one frame per step; 33 rows are cut to 32.
        assert picture.size == (48, 32)
        assert picture.n_frames == 6 * 2
        assert picture.info["duration"] == 100


def test_play_falls_back_to_gif_without_ffmpeg(run, sim_rl, monkeypatch):
    monkeypatch.setattr("sim_rl_plugin.video._has_ffmpeg", lambda: False)
    assert sim_rl("play", run, "--steps", 3, "--video", "p.mp4").output == "video: p.gif\n"


def test_play_on_the_web_names_what_is_missing_before_anything_is_loaded(sim_rl, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    result = sim_rl("play", "nowhere", "--web")
    assert result.exit_code == 2
    assert result.stderr == 'error: the web viewer needs viser: pip install "sim-rl-plugin[web]"\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", 8080], "--port is for the web viewer: say --web, too"),
        (["--host", "0.0.0.0"], "--host is for the web viewer"),
        (["--num-envs", 2], "--num-envs is for the web viewer"),
        (["--web", "--video", "p.mp4"], "--web shows the policy live: leave --video out"),
    ],
)
def test_options_of_the_web_viewer_and_others_do_not_mix(sim_rl, options, message):
    result = sim_rl("play", "nowhere", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_play_on_the_web_for_some_steps(run, sim_rl):
    pytest.importorskip("viser")
    result = sim_rl("play", run, "--web", "--port", 0, "--steps", 4, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "viewer: http://localhost:" in result.output
    (env,) = fake_lab.opened
    assert (env.num_envs, env.episode_length_buf.tolist()) == (1, [4])


def test_play_on_the_web_refuses_environments_that_cannot_be_shown(run, sim_rl):
    pytest.importorskip("viser")
    result = sim_rl("play", run, "--web", "--port", 0, "--steps", 4, "--num-envs", 2)
    assert (result.exit_code, result.stderr) == (
        2,
        "error: PointEnv draws its environment 0 only: leave --num-envs out\n",
    )


def test_plot_draws_runs(run, sim_rl):
    result = sim_rl("plot", run, run / "model_2.pt", "again=run", "--output", "plots/p.png", "--x", "steps")
    assert (result.exit_code, result.output) == (0, "plot: plots/p.png\n")
    assert Path("plots/p.png").read_bytes().startswith(b"\x89PNG")


def test_plot_says_what_is_wrong(run, sim_rl, tmp_path):
    result = sim_rl("plot", run, "--metric", "Train/mean_rewrad")
    assert result.exit_code == 2
    assert "did you mean 'Train/mean_reward'?" in result.stderr
    (tmp_path / "empty").mkdir()
    assert "empty has no metrics.csv" in sim_rl("plot", "empty").stderr
    assert sim_rl("plot", "nowhere").stderr == "error: no run folder at nowhere\n"


def test_check_env_reports_and_exits_with_1_on_errors(run, sim_rl, monkeypatch):
    result = sim_rl("check-env", "--sim", "lab", "--task", "Reach")
    assert "Reach on lab:" in result.output
    assert "Traceback" not in result.output
    step = fake_lab.PointEnv.step

    def wrong(self, actions):
        obs, rewards, dones, extras = step(self, actions)
        return obs, rewards.double(), dones, extras

    monkeypatch.setattr(fake_lab.PointEnv, "step", wrong)
    result = sim_rl("check-env", "--sim", "lab", "--task", "Reach")
    assert result.exit_code == 1
    assert "error: wrong-dtype" in result.output


def test_a_curve_leaves_out_what_is_missing_or_cut_off(tmp_path):
    table = tmp_path / "metrics.csv"
    table.write_text("iteration,Perf/total_steps,Train/mean_reward\n0,10,\n1,20,1.5\n2,30,2.5\n3,4")
    curve = read_curve(table, "a", "steps")
    assert curve.x.tolist() == [20, 30]
    assert curve.y.tolist() == [1.5, 2.5]
    table.write_text("iteration,Train/mean_reward\n0,\n")
    with pytest.raises(UserError, match="has no value of 'Train/mean_reward' yet"):
        read_curve(table, "a")


def test_the_band_lies_where_all_runs_have_values():
    # At x = 1: (1 + 3) / 2 = 2, deviation 1. At x = 2: (2 + 5) / 2 = 3.5, deviation 1.5.
    first = Curve("a", np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]))
    second = Curve("a", np.array([1.0, 3.0]), np.array([3.0, 7.0]))
    x, mean, deviation = mean_and_band([first, second])
    assert x.tolist() == [1, 2]
    assert mean.tolist() == [2, 3.5]
    assert deviation.tolist() == [1, 1.5]
