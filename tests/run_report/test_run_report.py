"""The report page: what is on it is what the run folders hold, and it needs nothing but itself."""

import base64
import csv
import html.parser
import re
from pathlib import Path

import numpy as np
import pytest
from small_configs import ppo_cfg

from sim_rl_plugin.config.yaml_text import dump
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EvaluationResult
from sim_rl_plugin.run_report.contents import differences, read_run
from sim_rl_plugin.run_report.curves import confidence_95, curves_of
from sim_rl_plugin.run_report.page import page_of
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

VOID = {"meta", "img", "br", "path", "use"}


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects texts and everything that is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two trained runs that differ in seed and one setting, with a video in one of them."""
    root = tmp_path_factory.mktemp("runs")
    for seed, rate in ((1, 1e-3), (2, 5e-4)):
        cfg = {**ppo_cfg(learning_rate=rate), "seed": seed, "evaluation": {"every": 2, "episodes": 2}}
        runner = OnPolicyRunner(PointEnv(seed=seed), cfg, str(root / f"run{seed}"))
        runner.evaluate_in(PointEnv(num_envs=2, seed=9))
        runner.learn(4)
        (root / f"run{seed}" / "config.yaml").write_text(
            dump({**cfg, "simulator": "point", "task": "Reach <fast>", "max_iterations": 4})
        )
    (root / "run1" / "video.gif").write_bytes(b"GIF89a and so on")
    (root / "run1" / "git").mkdir(exist_ok=True)
    (root / "run1" / "git" / "mine.diff").write_text("0123456789abcdef\n\nnothing to commit\n\n")
    return [root / "run1", root / "run2"]


def column(folder: Path, tag: str) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row[tag] for row in csv.DictReader(file) if row[tag]]


def test_the_page_holds_what_the_folders_hold_and_fetches_nothing(folders):
    runs = [read_run(folder, "Reach & go") for folder in folders]
    text = page_of(runs, "Seeds <1 & 2>")
    page = Page(text)
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    assert not re.search(r"<script|@import|url\((?!#)", text)
    content = "\n".join(page.texts)
    assert "Seeds <1 & 2>" in content and "Reach <fast>" in content  # escaped in the source
    for folder in folders:
        assert f"{float(column(folder, 'Eval/mean_return')[-1]):.1f}" in page.texts
        assert f"{int(float(column(folder, 'Perf/total_steps')[-1])):,}" in page.texts
        assert "4 of 4" in page.texts
    assert "last while training, iteration 3" in content and "best while training" in content
    # Settings that differ, and no others.
    rows = text.split("Differences in the settings")[1].split("</section>")[0]
    assert re.findall(r"<tr><td>([^<]+)</td>", rows) == ["seed", "algorithm.learning_rate"]
    # The means of both seeds, and each seed.
    assert page.counts["svg"] == 2
    assert "Reach & go (2 seeds, 95 % of the mean)" in content
    assert base64.b64encode(b"GIF89a and so on").decode() in text
    assert "mine 0123456789ab, as committed" in content
    assert re.search(r"rollout \d+ %, update \d+ %, evaluation \d+ %", content)
    assert runs[0].manifest["versions"]["torch"] in page.texts


def test_times_are_sums_over_the_training(folders):
    run = read_run(folders[0], "")
    for tag, name in (("collection", "rollout"), ("learning", "update"), ("evaluation", "evaluation")):
        assert run.seconds[name] == pytest.approx(sum(map(float, column(folders[0], f"Perf/{tag}_time"))))


def test_one_run_has_nothing_to_differ_from(folders):
    text = page_of([read_run(folders[1], "one")], "One")
    Page(text)
    assert "Differences in the settings" not in text and "Videos" not in text and "1 run," in text


def test_curves_over_steps_are_those_of_the_table(folders):
    (curve,) = curves_of([read_run(folders[0], "a")], "Eval/mean_return", "steps")
    assert curve.y.tolist() == list(map(float, column(folders[0], "Eval/mean_return")))
    steps = list(map(float, column(folders[0], "Perf/total_steps")))
    assert curve.x.tolist() == [steps[1], steps[3]]
    assert curves_of([read_run(folders[0], "a")], "Nothing/of_the_kind", "steps") == []


def test_the_confidence_band_by_hand():
    # Of 1, 2 and 3: deviation of the sample 1, standard error 1/sqrt(3), t with two degrees of freedom 4.303.
    assert confidence_95(np.array([1.0, 2.0, 3.0]).std(keepdims=True), 3)[0] == pytest.approx(4.303 / 3**0.5)
    # Of two values 0 and 2: standard error 1, t with one degree of freedom.
    assert confidence_95(np.array([1.0]), 2)[0] == pytest.approx(12.706)
    assert confidence_95(np.array([1.0]), 101)[0] == pytest.approx(0.196)


def test_differences_are_told_per_leaf(folders):
    runs = [read_run(folder, "") for folder in folders]
    assert differences(runs) == {"seed": [1, 2], "algorithm.learning_rate": [1e-3, 5e-4]}


def test_what_is_damaged_is_told_and_the_rest_is_shown(folders, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("task: [")
    (broken / "metrics.csv").write_text("iteration,Train/mean_reward,Loss/value\n0,1.5,nan\n1,2.5,3\n2,")
    (broken / "model_1.pt").write_bytes(b"rubbish")
    run = read_run(broken, "broken")
    assert run.metrics["Train/mean_reward"] == [(0, 1.5), (1, 2.5)]
    text = page_of([run, read_run(folders[0], "whole")], "Both")
    Page(text)
    assert "config.yaml:" in text and 'class="problem"' in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no run folder: it holds no config"):
        read_run(tmp_path / "empty", "")


def test_an_evaluation_for_the_page_is_a_row(folders):
    import dataclasses

    run = dataclasses.replace(read_run(folders[0], "x"), evaluation=EvaluationResult((1234.5, 1235.5), (7, 9)))
    texts = Page(page_of([run], "t")).texts
    assert {"last checkpoint, for this page", "1235.0", "0.5", "8.0", "2"} <= set(texts)
