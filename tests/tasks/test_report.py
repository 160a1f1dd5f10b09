"""The report of a made-up run: its numbers are the run's, and what is missing is said."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import curves, plots, report, results
from tasks.report import terminal_summary, write_report
from tasks.verdict import tiles, verdict
from tasks.words import percent, points
from trainer import metrics


class Page(HTMLParser):
    """What a reader sees: text outside styles, and the addresses a browser would fetch."""

    def __init__(self, html: str):
        super().__init__()
        self.words, self.addresses, self.tags, self.ids = [], [], [], []
        self._hidden = 0
        self.feed(html)
        self.text = " ".join(" ".join(self.words).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._hidden += tag == "style"
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        self._hidden -= tag == "style"

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)


def written(run: SimpleNamespace, **changes) -> SimpleNamespace:
    report = write_report(run.experiment, **run.given | changes)
    html = report.html.read_text()
    return SimpleNamespace(report=report, html=html, page=Page(html))


@pytest.fixture(scope="module")
def run(tmp_path_factory, made_up_run):
    return made_up_run(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def whole(run):
    return written(run)


@pytest.fixture
def small_run(tmp_path, made_up_run):
    """Two stages of two steps: enough for what is not about numbers."""
    few = {"steps": 2, "problems": 12, "samples": 2, "recorded": ("reward/mean",)}
    two = (("short", "L1", 64), ("middle", "L2", 128))
    return lambda **settings: made_up_run(tmp_path, stages=two, **few | settings)


def test_the_verdict_comes_first_and_its_numbers_are_those_of_the_responses(run, whole):
    first, last = run.given["evaluations"][0], run.given["evaluations"][-1]
    change = metrics.paired_difference(
        *(results.read_responses(each["folder"]).correct for each in (first, last))
    )
    assert change.resolved
    headline, evidence, cost = whole.report.summary["verdict"]
    assert headline == (
        f"On lab, avg@8 rose by {100 * change.mean:.1f} points, from "
        f"{percent(first['metrics']['avg_at_k'])} to {percent(last['metrics']['avg_at_k'])}."
    )
    assert f"{points(change.low)} to {points(change.high)} points, p < 0.001" in evidence
    tokens = sum(stage["counters"]["tokens_generated"] for stage in run.given["stages"])
    assert cost == (
        f"Cost of training, 4 stages: 64 steps, {tokens:,} generated tokens and 8 min 12 s."
    )
    heading = re.search(r"<h1>(.*?)</h1>", whole.html)[1].replace("\xa0", " ")
    assert heading == headline
    assert whole.report.markdown.index("rose by") < whole.report.markdown.index("## Accuracy")


def test_page_markdown_and_terminal_show_every_checkpoint_with_its_numbers(run, whole):
    terminal = terminal_summary(whole.report.summary)
    for evaluation in run.given["evaluations"]:
        score = evaluation["metrics"]
        for value in (score["avg_at_k"], score["pass_at_k"], score["truncated_share"]):
            for text in (whole.page.text, whole.report.markdown, terminal):
                assert percent(value) in text
        correct = results.read_responses(evaluation["folder"]).correct
        low, high = metrics.interval(correct)
        interval = f"{100 * low:.1f} to {percent(high)}"
        for text in (whole.page.text, whole.report.markdown, terminal):
            assert interval in text
        assert f"{score['response_length_correct']:,.1f}" in whole.page.text


def test_costs_of_stages_and_their_sum_are_shown(run, whole):
    for stage in run.given["stages"]:
        assert f"{stage['counters']['tokens_generated']:,}" in whole.page.text
    assert f"{sum(s['counters']['rollouts'] for s in run.given['stages']):,}" in whole.page.text
    assert whole.report.summary["totals"]["seconds"] == 4 * (7.0 * 16 + 11)


def test_command_versions_settings_checks_and_threshold_are_there(run, whole):
    threshold = run.given["segments"]["L1"].manifest["threshold"]
    for text in (whole.page.text, whole.report.markdown):
        assert run.given["command"] in text
        assert "verl" in text and "0.9.1" in text and "commit c0ffee0" in text
        assert "context_length: 192" in text
        assert "tokenizer unchanged" in text
        assert f"up to {threshold} characters" in text
    assert f"threshold {threshold}" in whole.page.text  # the line in the histogram


def test_curves_run_over_all_stages_with_named_boundaries(whole):
    for title in ("Reward", "Entropy", "Response length", "Truncated responses", "Gradient norm"):
        assert title in whole.page.text
    figures = [Page(figure).words for figure in re.findall(r"<svg.*?</svg>", whole.html, re.DOTALL)]
    curves = [words for words in figures if "training step, all stages" in words]
    assert len(curves) == 8
    above = ["short", "middle", "long", "last", "64 tok", "128 tok", "192 tok", "128 tok"]
    for words in curves:
        assert [word for word in words if word in above] == above


def test_the_page_needs_no_network_and_ids_are_unique(whole):
    assert "http" not in whole.html and "url(//" not in whole.html and "@import" not in whole.html
    assert all(address.startswith("#") for address in whole.page.addresses)
    assert not {"script", "link", "img", "iframe"} & set(whole.page.tags)
    assert len(set(whole.page.ids)) == len(whole.page.ids)
    assert {address[1:] for address in whole.page.addresses} <= set(whole.page.ids)


def test_figures_follow_the_reader_s_colours(whole):
    figures = re.findall(r"<svg.*?</svg>", whole.html, re.DOTALL)
    assert len(figures) == 14
    for figure in figures:
        assert "var(--ink)" in figure
        assert not re.search(r"(?:fill|stroke): #", figure)


def test_figures_are_kept_as_files_too(whole):
    names = {file.stem for file in (whole.report.folder / "figures").glob("*.svg")}
    assert {"accuracy-lab", "change-lab", "entropy", "prompt-lengths", "tokens"} <= names
    assert names == {file.stem for file in (whole.report.folder / "figures").glob("*.png")}


def test_the_summary_on_disk_is_strict_json_and_the_one_handed_back(whole):
    def refuse(constant):
        raise AssertionError(constant)

    text = (whole.report.folder / "summary.json").read_text()
    stored = json.loads(text, parse_constant=refuse)
    assert stored["verdict"] == whole.report.summary["verdict"]
    assert stored["benchmarks"]["lab"][4]["difference"]["low"] > 0
    assert (whole.report.folder / "report.md").read_text() == whole.report.markdown


def test_harder_problems_are_shown_with_the_length_their_answers_need(run, whole):
    evaluation, lab = run.given["evaluations"][-1], run.given["benchmarks"]["lab"]
    rows = results.length_needed(evaluation["folder"], lab)
    level, prompt, tokens, number = rows[3]
    members = {r["id"] for r in lab.table().to_pylist() if r["level"] == level}
    right = [
        r["tokens"]
        for r in pq.read_table(evaluation["folder"] / "responses.parquet").to_pylist()
        if r["id"] in members and r["correct"]
    ]
    assert (prompt, tokens, number) == (8 + 6 * level, pytest.approx(np.mean(right)), len(right))
    assert "Response length needed against prompt length" in whole.page.text


@pytest.mark.usefixtures("plain_figures")
def test_a_stage_that_another_experiment_trained_has_the_name_and_settings_of_this_one(small_run):
    run = small_run()
    first, second = run.given["stages"]
    first["name"], second["name"] = "middle", "theirs"
    page = written(run)
    rows = page.report.summary["stages"]
    assert [(row["name"], row["prompt_set"], row["context_length"]) for row in rows] == [
        ("short", "L1", 64),
        ("middle", "L2", 128),
    ]
    assert "theirs" not in page.page.text


def test_every_benchmark_has_its_verdict(small_run):
    run = small_run()
    others = [{**each, "benchmark": "other"} for each in run.given["evaluations"]]
    shown = written(run, evaluations=[*run.given["evaluations"], *others])
    headline, evidence, other, _ = shown.report.summary["verdict"]
    assert other == f"{headline} {evidence}".replace("On lab", "On other")
    assert "not corrected for the number of benchmarks" in shown.page.text
    assert "other, 12 problems" in terminal_summary(shown.report.summary)


@pytest.mark.usefixtures("plain_figures")
def test_a_change_that_is_not_resolved_is_called_so(small_run):
    shown = written(small_run(gain=0.0, problems=60))
    headline, evidence, _ = shown.report.summary["verdict"]
    assert "no change in avg@2 is resolved" in headline and "60 problems" in evidence


@pytest.mark.usefixtures("plain_figures")
def test_a_score_of_an_earlier_stage_is_told_from_one_of_the_end(run, whole):
    shown = written(run, evaluations=run.given["evaluations"][:2])
    headline, *_ = shown.report.summary["verdict"]
    assert "after stage short, 1 of 4" in headline
    assert "base" in shown.page.text and "; after stage short, 1 of 4" in shown.page.text
    assert shown.report.summary["unscored"] == ["lab"]
    assert "The last checkpoint was not evaluated on lab with these settings." in shown.page.text
    assert "after stage" not in whole.page.text and whole.report.summary["unscored"] == []
    base = written(run, evaluations=run.given["evaluations"][:1])
    assert base.report.summary["unscored"] == ["lab"]


def rows_of(problems, gained):
    """A base that solves no problem, and a final checkpoint that solves some."""
    before, after = np.zeros((2, problems, 1), bool)
    after[:gained] = True
    change = metrics.paired_difference(before, after)._asdict()
    row = {"k": 1, "pass_at_k": 0.0, "truncated_share": 0.0, "note": ""}
    base = {**row, "position": -1, "avg_at_k": 0.0, "difference": None}
    return [base, {**row, "position": 0, "avg_at_k": gained / problems, "difference": change}]


TOTALS = {"steps": None, "tokens_generated": None, "seconds": None}


def test_a_change_rises_only_where_the_test_says_so():
    rows = rows_of(30, 4)  # 4 better and none worse: one in eight by luck
    assert rows[1]["difference"]["low"] > 0
    headline, evidence = verdict({"few": rows}, [], TOTALS)
    assert "no change in avg@1 is resolved: +13.3 points" in headline and "p = 0.125" in evidence


def test_a_change_below_a_tenth_of_a_point_keeps_its_zero():
    base, last = rows_of(30, 6)
    change = last["difference"] | {"mean": 0.0004, "p_value": 0.001}
    headline, _ = verdict({"many": [base, last | {"difference": change}]}, [], TOTALS)
    assert headline.startswith("On many, avg@1 rose by 0.0 points, ")


def test_p_values_are_corrected_for_the_number_of_benchmarks():
    one = rows_of(30, 6)
    assert 0.025 < one[1]["difference"]["p_value"] < 0.05
    assert "rose by 20.0" in verdict({"one": one}, [], TOTALS)[0]
    both = verdict({"one": one, "two": rows_of(30, 0)}, [], TOTALS)
    assert "no change in avg@1 is resolved" in both[0]
    assert "p = 0.062 by Holm over 2 benchmarks" in both[1]


def test_the_numbers_at_the_top_name_the_base_only_where_there_is_one():
    base, last = rows_of(problems=30, gained=6)
    assert ("avg@1", "20.0 %", "base 0.0 %") in tiles({"one": [base, last]}, TOTALS)
    alone = tiles({"one": [last | {"difference": None}]}, TOTALS)
    assert ("avg@1", "20.0 %", "") in alone and "base" not in str(alone)


def test_names_with_markup_are_shown_to_the_letter(small_run):
    run = small_run()
    for evaluation in run.given["evaluations"]:
        evaluation["benchmark"] = '<script>alert("x")|*'
    run.given["evaluations"][1]["label"] = "a<blink>&c"
    shown = written(run, command="python -m flows.pipeline 'x=<i>' && true")
    assert not {"script", "blink", "i"} & set(shown.page.tags)
    assert "a<blink>&c" in shown.page.text and '<script>alert("x")|*' in shown.page.text
    assert "'x=<i>' && true" in shown.page.text
    assert r'\<script\>alert("x")\|\*' in shown.report.markdown


def test_metrics_that_were_not_recorded_leave_their_figure_out(small_run):
    run = small_run()
    for stage in run.given["stages"]:
        (stage["folder"] / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
        for key in ("counters", "seconds", "handoff", "attempts", "environment", "outcome"):
            stage[key] = None
    shown = written(run)
    assert "mean reward of a rollout" in shown.page.text
    assert "Entropy" not in shown.page.text and "Hand-off" not in shown.page.text
    assert shown.report.summary["totals"]["tokens_generated"] is None


def test_nan_is_shown_and_named(small_run):
    run = small_run()
    lines = ['{"step": 1, "grad_norm": 0.5}', '{"step": 2, "grad_norm": NaN}']
    (run.given["stages"][1]["folder"] / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for evaluation in run.given["evaluations"]:
        evaluation["metrics"]["response_length_correct"] = math.nan
    shown = written(run)
    assert "Crosses: no finite value at step 4 (NaN)." in shown.page.text
    assert shown.page.text.count("NaN") == 1 + 3 and "NaN" in shown.report.markdown


def test_values_that_explode_are_written_at_their_marks_and_not_over_a_stage(small_run):
    run = small_run(steps=3)
    stages = results.stage_rows(run.experiment, run.given["stages"])
    stages[1]["metrics"][2]["reward/mean"] = 3e8
    figure = curves.curve("Reward", "mean reward", "reward/mean", stages)
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    assert axis.get_offset_text().get_text() == ""
    assert "2.4e+08" in [mark.get_text() for mark in axis.get_ticklabels()]


def test_a_step_made_again_after_an_interruption_counts_once(tmp_path):
    lines = ['{"step": 1, "loss": 1}', '{"step": 2, "loss": 2}', '{"step": 2, "loss": 3}', '{"st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert results.read_steps(tmp_path) == [{"step": 1, "loss": 1}, {"step": 2, "loss": 3}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step"\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*metrics.jsonl.*\n\nhint: "):
        results.read_steps(tmp_path)


def test_a_value_that_is_no_number_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": []}\n')
    with pytest.raises(ValueError, match=r"step 2 of .* has loss \[\], needed a number"):
        results.read_steps(tmp_path)


@pytest.mark.usefixtures("plain_figures")
def test_without_a_base_nothing_is_compared(small_run):
    run = small_run()
    shown = written(run, evaluations=run.given["evaluations"][1:])
    assert "The base was not evaluated on lab" in shown.page.text


def test_of_a_base_alone_nothing_is_compared(small_run):
    run = small_run()
    run.given["evaluations"] = [one for one in run.given["evaluations"] if one["position"] == -1]
    assert "No trained checkpoint was evaluated on lab" in written(run).page.text


@pytest.mark.parametrize("evaluated", [0, 1])
@pytest.mark.usefixtures("plain_figures")
def test_a_run_that_ended_early_is_reported_and_said_to_be_so(small_run, evaluated):
    run = small_run()
    run.given["stages"] = run.given["stages"][:1]
    run.given["stages"][0]["outcome"] = "interrupted"
    shown = written(run, evaluations=run.given["evaluations"][:evaluated])
    assert "Stage short: interrupted. 1 of 2 stages not trained." in shown.page.text
    assert "1 of 2 stages not trained" in shown.report.markdown.replace("\\", "")
    assert terminal_summary(shown.report.summary)


def test_one_problem_and_one_step_are_not_several_and_a_mark_at_zero_is_whole(small_run):
    run = small_run(problems=1, samples=1, steps=1, gain=0.0)
    page = written(run)
    assert "lab: 1 problem, 1 response each" in page.page.text
    assert "L1 · 64 tokens · 1 step" in page.page.text and "1 steps" not in page.page.text
    assert "could not be tested. An interval" in page.report.summary["verdict"][0]
    rows = [{**row, "avg_at_k": 0.0} for row in page.report.summary["benchmarks"]["lab"]]
    assert plots.scores("lab", rows).axes[0].get_xlim()[0] < 0


def test_nothing_at_all_still_gives_a_page(small_run):
    run = small_run()
    shown = written(run, stages=[], evaluations=[], benchmarks=None, segments={})
    assert "Nothing was trained or evaluated." in shown.page.text
    assert "2 of 2 stages not trained." in shown.page.text


def rewrite(evaluation, change):
    path = evaluation["folder"] / "responses.parquet"
    table = pa.Table.from_pylist(change(pq.read_table(path).to_pylist()))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "has 1 to 2 responses per problem"),
        (
            lambda rows: [r for r in rows if r["id"] != "lab-3"],
            "Not compared to the base: 1 problem in only one of the two.",
        ),
        (
            lambda rows: [{**r, "correct": True} for r in rows],
            "evaluation.json says 0.",
        ),
    ],
)
@pytest.mark.usefixtures("plain_figures")
def test_responses_that_do_not_fit_are_told_beside_the_numbers(small_run, change, said):
    run = small_run()
    rewrite(run.given["evaluations"][1], change)
    shown = written(run)
    [row] = [row for row in shown.report.summary["benchmarks"]["lab"] if row["note"]]
    assert row["label"] == "short" and said in row["note"]
    assert f"short: {row['note']}" in shown.page.text


@pytest.mark.usefixtures("plain_figures")
def test_evaluations_sampled_differently_are_not_compared(small_run):
    run = small_run()
    run.given["evaluations"][2]["sampling"]["temperature"] = 1.0
    shown = written(run)
    assert "temperature is 1.0, for the base 0.6" in shown.page.text
    assert "the change could not be tested" in shown.report.summary["verdict"][0]


@pytest.mark.usefixtures("plain_figures")
def test_a_second_report_replaces_the_first(small_run):
    run = small_run()
    first = written(run)
    second = written(run, command="python -m another")
    assert first.report.folder == second.report.folder
    assert "python -m another" in second.html
    assert [each.name for each in second.report.folder.parent.iterdir()] == ["lab_fastcurl-seed0"]


def test_many_short_stages_are_numbered_where_names_do_not_fit(tmp_path, made_up_run):
    stages = [(f"a-long-name-of-a-stage-{i}", "L2", 8192 * (i + 1)) for i in range(9)]
    run = made_up_run(tmp_path, steps=2, problems=6, stages=stages, recorded=("entropy",))
    shown = written(run)
    assert "8,192 tok<" not in shown.html  # not above the curves
    assert "9 a-long-name-of-a-stage-8 L2 · 73,728 tokens" in shown.page.text  # but in their key


def test_the_terminal_summary_is_ascii_and_aligned(whole):
    text = terminal_summary(whole.report.summary)
    assert text.isascii()
    table = text.split("\n\n")[1].splitlines()[1:]
    assert len(table) == 7 and len({len(line) for line in table}) == 1
    assert len(table[0]) <= 110


def test_every_prompt_is_in_a_bar_and_no_bar_lies_across_the_threshold():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 3_000).astype(int)
    figure, beyond = plots.lengths(lengths, 247, "raw_question")
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in figure.axes[0].patches]
    assert sum(height for _, _, height in bars) + beyond == len(lengths)
    assert beyond <= 0.005 * len(lengths)
    assert all(left + width <= 247.5 or left >= 247.5 for left, width, height in bars if height)


@pytest.mark.usefixtures("plain_figures")
def test_a_report_is_drawn_again_only_where_what_it_is_made_of_changed(small_run, monkeypatch):
    run = small_run()
    first = written(run).report
    drawn = []
    draw = report.pictures.of_cost
    monkeypatch.setattr(report.pictures, "of_cost", lambda *given: drawn.append(1) or draw(*given))
    again = written(run).report
    assert not drawn and again.summary == first.summary and again.markdown == first.markdown
    assert again.summary["written"] == first.summary["written"]

    metrics = Path(run.given["stages"][0]["folder"]) / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("reward/mean", "reward/gone"))
    written(run)
    assert len(drawn) == 1
    written(run, command="another command")
    assert len(drawn) == 2
    stages = [{**stage, "outcome": "other"} for stage in run.given["stages"]]
    written(run, command="another command", stages=stages)
    assert len(drawn) == 3


@pytest.mark.parametrize("gone", ["report.md", "report.html", "summary.json", "figures"])
@pytest.mark.usefixtures("plain_figures")
def test_a_report_that_is_not_whole_is_drawn_again(small_run, gone):
    run = small_run()
    folder = written(run).report.folder
    lost = folder / gone
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    written(run)
    assert lost.exists()


@pytest.mark.usefixtures("plain_figures")
def test_a_report_that_other_code_drew_is_drawn_again(small_run, monkeypatch):
    run = small_run()
    first = written(run).report.summary["made_of"]
    monkeypatch.setattr(report, "version", lambda name: "0")
    assert written(run).report.summary["made_of"] != first
