"""``sim-rl report``: from run folders to a page."""

BRIEF = ("--eval-episodes", 0, "--max-iterations", 2)


def test_runs_become_a_page(install, sim_rl, tmp_path, monkeypatch):
    install("lab")
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        arguments = ("--sim", "lab", "--task", "Reach", "--seed", seed, "--run-dir", f"run{seed}", *BRIEF)
        assert sim_rl("train", *arguments).exit_code == 0
    result = sim_rl("report", "mine=run1", "mine=run2", "--output", "pages/r.html", "--episodes", 2, "--x", "steps")
    assert result.exit_code == 0, result.output
    assert result.stdout == "report: pages/r.html\n"
    text = (tmp_path / "pages" / "r.html").read_text()
    assert text.count("last checkpoint, for this page") == 2
    assert text.count("data:video/mp4;base64,") + text.count("data:image/gif;base64,") == 2
    assert "mine, seed 1 (run1)" in text


def test_a_run_whose_simulator_is_gone_is_shown_without_an_evaluation(install, sim_rl, tmp_path, monkeypatch):
    install("lab")
    monkeypatch.chdir(tmp_path)
    assert sim_rl("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "--no-video", *BRIEF).exit_code == 0
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    from sim_rl_plugin import plugins

    plugins.reset_manager()
    result = sim_rl("report", "run", "--episodes", 2)
    assert result.exit_code == 0, result.output
    assert "run was not evaluated: " in (tmp_path / "report.html").read_text()


def test_what_is_wrong_is_one_line(install, sim_rl, tmp_path, monkeypatch):
    install("lab")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, message in ((["nowhere"], "no run folder at nowhere"), (["empty"], "empty is no run folder")):
        result = sim_rl("report", *arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
