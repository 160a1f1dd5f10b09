"""A made-up study with known gains: what is said of it, and what is said of what is missing."""

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from conf.schema.study import Arm, Study
from tasks import comparison, study_plots
from tasks.arm_runs import ArmRun, OnBenchmark
from tasks.artifacts import read_json
from tasks.comparison import compare, history
from tasks.sharing import sharing
from tasks.study_report import write_study_report
from tasks.study_tables import average, budgets, differences, matched, targets
from tasks.study_tables import scores as score_table
from tasks.study_verdict import of_benchmark, terminal
from trainer.metrics import Estimate, smallest_difference

GAINS = {"plain": 0.05, "better": 0.11, "same": 0.05}


def made_up_study(made_up_run, output, *, steps=8, seeds=(0, 1, 2), gains=GAINS, **given):
    """Four stages an arm; `gains` is what each adds to a response's chance of being correct."""
    study = Study(
        name="made_up",
        question="Does the better one do better?",
        seeds=list(seeds),
        arms=[
            Arm(name=name, about=f"gains {gain} a stage", published={"lab": 0.5}, source="Nobody")
            for name, gain in gains.items()
        ],
        baseline="plain",
        targets={"lab": 0.7},
    )
    runs = []
    for place, (name, gain) in enumerate(gains.items()):
        for seed in seeds:
            made = made_up_run(
                output / f"{name}-{seed}", gain=gain, steps=steps, name=name,
                seed=100 * place + seed, problem_seed=7, **given,
            )  # fmt: skip
            settings = made.experiment.model_copy(update={"seed": seed})
            runs.append(
                ArmRun(name, seed, settings, made.given["command"], made.given["stages"],
                       made.given["evaluations"])
            )  # fmt: skip
    return study, runs


@pytest.fixture(scope="module")
def study_and_runs(made_up_run, tmp_path_factory):
    return made_up_study(made_up_run, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def found(study_and_runs):
    return compare(*study_and_runs)


def shared(runs):
    return sharing([(f"{run.arm} seed {run.seed}", run.settings) for run in runs])


def test_a_difference_that_is_there_is_resolved_and_one_that_is_not_is_not(found):
    arms = found.benchmarks["lab"].arms
    assert arms["better"]["difference"]["low"] > 0.1
    assert arms["better"]["adjusted_p"] < 0.05
    assert arms["same"]["difference"]["low"] < 0 < arms["same"]["difference"]["high"]
    assert arms["plain"]["difference"] is None
    # Two comparisons: Holm doubles the smaller p-value.
    smaller, larger = sorted(
        (arms[name]["difference"]["p_value"], arms[name]["adjusted_p"])
        for name in ("better", "same")
    )
    assert smaller[1] == pytest.approx(2 * smaller[0]) and larger[1] == pytest.approx(larger[0])


def test_how_much_seeds_differ_is_measured_over_all_arms(study_and_runs, found):
    study, runs = study_and_runs
    changes = [found.benchmarks["lab"].arms[name]["difference"] for name in ("better", "same")]
    assert [change["freedom"] for change in changes] == [6, 6]  # three arms of three seeds
    lost = [run for run in runs if (run.arm, run.seed) != ("better", 2)]
    arms = compare(study, lost).benchmarks["lab"].arms
    assert [arms[name]["difference"]["freedom"] for name in ("better", "same")] == [5, 5]
    other = [
        replace(run, evaluations=[
            {**each, "sampling": {**each["sampling"], "samples": 4}} for each in run.evaluations
        ]) if run.arm == "better" else run
        for run in runs
    ]  # fmt: skip
    assert compare(study, other).benchmarks["lab"].arms["same"]["difference"]["freedom"] == 4


def test_a_benchmark_of_one_problem_stops_nothing(made_up_run, tmp_path):
    gains = {"plain": 0.05, "better": 0.11}
    arms = compare(*made_up_study(made_up_run, tmp_path, steps=1, problems=1, gains=gains))
    assert "at least 2 of them, got 1" in arms.benchmarks["lab"].arms["better"]["note"]


def test_the_base_has_the_studys_level_too(study_and_runs, found):
    study, runs = study_and_runs
    coarse = compare(study.model_copy(update={"level": 0.6}), runs).benchmarks["lab"].base
    wide, narrow = found.benchmarks["lab"].base["estimate"], coarse["estimate"]
    assert wide["low"] < narrow["low"] < narrow["mean"] < narrow["high"] < wide["high"]


def test_costs_add_up_over_stages(found):
    x, y = found.benchmarks["lab"].curve("better", 0, "updates")
    assert x == [0, 8, 16, 24, 32] and len(y) == 5
    x, _ = found.benchmarks["lab"].curve("better", 0, "tokens_generated")
    assert x == np.cumsum([0, *(256 * 8 * (45 + place) for place in range(4))]).tolist()


def test_a_target_that_was_not_reached_is_said_to_be_censored(found):
    arms = found.benchmarks["lab"].arms
    assert arms["better"]["targets"]["updates"]["reached"] == 3
    assert arms["plain"]["targets"]["updates"]["reached"] == 0
    speed_up = arms["better"]["targets"]["updates"]["speed_up"]
    assert speed_up["bound"] == ">" and speed_up["high"] == float("inf")
    text = targets(found, found.benchmarks["lab"]).markdown()
    assert "\\> 32" in text and "times less" in text


def test_a_target_passed_before_the_first_evaluation_is_marked_as_coarse(study_and_runs, found):
    """A straight line from the start says little of where a curve was."""
    study, runs = study_and_runs
    rarely = [
        replace(run, evaluations=[run.evaluations[0], run.evaluations[-1]])
        if run.arm == "better" else run
        for run in runs
    ]  # fmt: skip
    seldom = compare(study, rarely).benchmarks["lab"]
    often = found.benchmarks["lab"]
    assert [on.arms["better"]["targets"]["updates"]["coarse"] for on in (often, seldom)] == [0, 1]
    assert seldom.arms["better"]["targets"]["updates"]["speed_up"]["coarse"]
    assert "~" not in targets(found, often).markdown()
    text = targets(compare(study, rarely), seldom).markdown()
    assert "Before the arm's first evaluation" in text and text.count("~") > 1


def test_the_report_says_verdict_costs_and_settings_and_is_one_file(
    study_and_runs, found, tmp_path
):
    _, runs = study_and_runs
    report = write_study_report(found, shared(runs), folder=tmp_path / "report", command="again")
    page = report.html.read_text()
    assert re.fullmatch(
        r"On lab, better is 2\d\.\d points above plain\.", report.summary["verdict"][0]
    )
    assert report.summary["verdict"][1].endswith(" by Holm, 120 problems, 3 seeds.")
    assert "same cannot be told apart from plain" in " ".join(report.summary["verdict"])
    assert "points when it makes 2 comparisons." in " ".join(report.summary["verdict"])
    assert "more than 2 times in 10, corrected for 2 comparisons." in page
    assert not re.search(r'(src|href)="https?:', page) and "@import" not in page
    assert page.count("<svg") >= 10 and "NaN" not in page
    for text in ("prefers-color-scheme: dark", "@media print", "python -m flows.pipeline"):
        assert text in page
    assert (tmp_path / "report" / "figures" / "lineage.png").stat().st_size > 1000
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["arms"] == list(GAINS)
    assert "| better" in report.markdown


def test_a_difference_below_a_tenth_of_a_point_keeps_its_zero(found):
    arms = found.benchmarks["lab"].arms
    small = {
        name: arm | {"difference": arm["difference"] | {"mean": 0.0004, "detectable": 0.0}}
        for name, arm in arms.items()
        if arm["difference"]
    }
    apart, _, unresolved = of_benchmark(found.study, OnBenchmark("lab", arms=small))
    assert apart == "On lab, better is 0.0 points above plain."
    assert unresolved.endswith("true differences of 0.0 points when it makes 2 comparisons.")


def test_what_is_detectable_is_what_holm_would_resolve(study_and_runs, found):
    """At the level of the first of m comparisons: half of the rest for two of them."""
    change = found.benchmarks["lab"].arms["same"]["difference"]
    expected = smallest_difference(change["error"], change["freedom"], level=0.975)
    assert change["detectable"] == pytest.approx(expected)
    assert change["comparisons"] == 2
    study, runs = study_and_runs
    few = study.model_copy(update={"arms": [arm for arm in study.arms if arm.name != "better"]})
    alone = compare(few, [run for run in runs if run.arm != "better"])
    on = alone.benchmarks["lab"]
    change = on.arms["same"]["difference"]
    assert change["detectable"] == pytest.approx(
        smallest_difference(change["error"], change["freedom"])
    )
    assert of_benchmark(few, on)[-1].endswith(" points.")


def test_metrics_have_the_same_names_in_every_run(study_and_runs, found):
    _, runs = study_and_runs
    names = [{key for _, values in history(found, run) for key in values} for run in runs]
    assert all(each == names[0] for each in names)
    assert {"eval/lab/avg_at_k", "cost/updates", "cost/tokens_generated"} <= names[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.9}, "Not compared: temperature is 0.6 in one and 0.9 in the other."),
        ({"samples": 4}, "Not compared: samples is 8 in one and 4 in the other."),
        ({"boxed": True}, "Not compared: boxed is not recorded in one and True in the other."),
        (
            {"grading_seconds": 1.0},
            "Not compared: grading_seconds is as usual in one and 1.0 in the other.",
        ),
        ({"seed": 1, "tensor_parallel": 2}, ""),
    ],
)
def test_evaluations_with_other_sampling_are_refused_by_name(study_and_runs, change, said):
    study, runs = study_and_runs
    other = []
    for run in runs:
        if run.arm == "better":
            run = replace(run, evaluations=[
                {**each, "sampling": {**each["sampling"], **change}} for each in run.evaluations
            ])  # fmt: skip
        other.append(run)
    arms = compare(study, other).benchmarks["lab"].arms
    assert arms["better"]["note"] == said
    assert (arms["better"]["difference"] is None) == bool(said)
    assert arms["same"]["difference"] is not None


@pytest.mark.parametrize(
    ("key", "said"),
    [("data_digest", "same ids, but other prompts or answers"), ("grader", "of the grader judged")],
)
def test_other_answers_to_the_same_ids_and_other_graders_are_refused(study_and_runs, key, said):
    study, runs = study_and_runs
    arms = {}
    for known in ("all", "one"):  # what was evaluated before this was recorded is compared
        marked = [
            replace(run, evaluations=[
                {**each, key: run.arm} if known == "all" or run.arm == "better" else each
                for each in run.evaluations
            ])
            for run in runs
        ]  # fmt: skip
        arms[known] = compare(study, marked).benchmarks["lab"].arms["better"]
    assert arms["all"]["difference"] is None and said in arms["all"]["note"]
    assert arms["one"]["difference"] and arms["one"]["note"] == ""


def test_evaluations_of_other_problems_are_refused_by_name(made_up_run, tmp_path):
    study, runs = made_up_study(made_up_run, tmp_path, steps=2, seeds=(0,), problems=12)
    folder = runs[1].evaluations[-1]["folder"]
    table = pq.read_table(folder / "responses.parquet")
    ids = ["other" if name == "lab-3" else name for name in table["id"].to_pylist()]
    pq.write_table(
        table.set_column(table.schema.get_field_index("id"), "id", [ids]),
        folder / "responses.parquet",
    )
    note = compare(study, runs).benchmarks["lab"].arms["better"]["note"]
    assert note == "Not compared: 2 problems in only one of the two evaluations, such as lab-3."


def test_failed_arms_missing_seeds_and_nan_are_shown_and_stop_nothing(made_up_run, tmp_path):
    study, runs = made_up_study(made_up_run, tmp_path, steps=3, seeds=(0, 1), problems=20)
    better = [run for run in runs if run.arm == "better"]
    rows = [json.loads(line) for line in
            (better[0].stages[0]["folder"] / "metrics.jsonl").read_text().splitlines()]  # fmt: skip
    rows[1]["reward/mean"] = float("nan")
    (better[0].stages[0]["folder"] / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    broken = [
        replace(run, stages=[], evaluations=[], failure="out of memory\nat step 3")
        if run.arm == "same"
        else replace(run, evaluations=run.evaluations[:-1])
        if run is better[1]
        else run
        for run in runs
    ]
    found = compare(study, broken)
    assert found.missing == [
        "same seed 0 failed: out of memory",
        "same seed 1 failed: out of memory",
        "One seed finished both in plain and in better: what is said of that difference tells "
        "nothing about other seeds.",
        "better has no score on lab for seed 1.",
    ]
    assert found.benchmarks["lab"].arms["better"]["seeds"] == [0]
    assert found.benchmarks["lab"].arms["better"]["difference"]["seeds"] == 1
    report = write_study_report(found, shared(broken), folder=tmp_path / "r", command="again")
    page = report.html.read_text()
    assert all(sentence in page for sentence in found.missing)
    read_json(tmp_path / "r" / "summary.json")


def test_a_run_that_broke_off_does_not_cut_the_others_short(study_and_runs, found):
    study, runs = study_and_runs
    lost = replace(runs[2], stages=runs[2].stages[:1], evaluations=runs[2].evaluations[:2])
    assert (lost.arm, lost.seed) == ("plain", 2)
    broken = compare(study, [lost if run is runs[2] else run for run in runs])
    on, whole = broken.benchmarks["lab"], found.benchmarks["lab"]
    assert on.arms["better"]["at_budget"] == whole.arms["better"]["at_budget"]
    plain = on.arms["plain"]
    assert len(plain["at_budget"]["updates"]["scores"]) == 2
    assert plain["at_budget"]["updates"]["budget"] == 32
    assert len(plain["targets"]["updates"]["costs"]) == 2
    assert any(each.endswith("did not finish: plain seed 2.") for each in broken.missing)
    for figure in (
        study_plots.learning(broken, on, "updates"),
        study_plots.training(broken, "reward/mean", "Reward", "reward", "updates"),
    ):
        line = next(each for each in figure.axes[0].lines if each.get_label() == "plain")
        assert line.get_xdata()[-1] == 32


def test_it_is_said_over_how_many_seeds_a_difference_is(study_and_runs, found):
    """Three were asked for, and one of the baseline's was lost: two are left to compare."""
    study, runs = study_and_runs
    whole = score_table(found, found.benchmarks["lab"])
    assert ", 3 seeds" in whole.markdown() and "3 seeds. This design" in terminal(
        found, shared(runs)
    )
    assert not any("seeds" in sentence for sentence in found.missing)
    lost = replace(runs[2], stages=(), evaluations=(), failure="no memory")
    broken = compare(study, [lost if run is runs[2] else run for run in runs])
    [told] = [each for each in broken.missing if each.startswith("Two seeds")]
    assert told.startswith("Two seeds compare better, same with plain: they hardly tell")
    assert ", 2 seeds" in score_table(broken, broken.benchmarks["lab"]).markdown()
    assert ", 2 seeds. This design finds 8 of 10" in terminal(broken, shared(runs))


def test_a_starting_model_is_shown_only_where_all_arms_have_it(study_and_runs):
    study, runs = study_and_runs

    def started(models):
        given = [
            replace(run, evaluations=[
                {**each, "checkpoint": {"path": "p", "digest": models[run.arm]}}
                if each["position"] == -1 else each
                for each in run.evaluations
            ])
            for run in runs
        ]  # fmt: skip
        return compare(study, given)

    one = started(dict.fromkeys(GAINS, "a"))
    assert one.benchmarks["lab"].base and one.missing == []
    two = started({"plain": "a", "better": "b", "same": "a"})
    assert two.benchmarks["lab"].base is None
    assert two.missing == [
        "On lab, no starting model is shown, for there are 2: that of plain, same; that of better."
    ]
    assert "starting model" not in score_table(two, two.benchmarks["lab"]).markdown()


def test_a_study_without_any_score_is_refused(study_and_runs):
    study, runs = study_and_runs
    none = [replace(run, evaluations=[], failure="no disk") for run in runs]
    with pytest.raises(ValueError, match=r"none of 9 runs of made_up was evaluated.*no disk"):
        compare(study, none)


def test_problems_that_training_saw_are_left_out_of_a_score_of_their_own(study_and_runs):
    study, runs = study_and_runs
    ids = {f"lab-{number}" for number in range(10)}
    on = compare(study, [replace(run, seen={"lab": ids}) for run in runs]).benchmarks["lab"]
    rows = pq.read_table(runs[0].evaluations[-1]["folder"] / "responses.parquet").to_pylist()
    kept = [row["correct"] for row in rows if row["id"] not in ids]
    assert on.points["plain", 0][-1].clean == pytest.approx(np.mean(kept))
    assert on.arms["plain"]["avg_at_k_clean"] is not None
    assert compare(study, runs).benchmarks["lab"].arms["plain"]["avg_at_k_clean"] is None
    # One arm trained on other data, which hold none of them: the same problems count for it.
    other = [replace(run, seen={} if run.arm == "better" else {"lab": ids}) for run in runs]
    alike = compare(study, other).benchmarks["lab"]
    assert alike.arms["better"]["avg_at_k_clean"] == on.arms["better"]["avg_at_k_clean"]
    assert alike.base["avg_at_k_clean"] == on.base["avg_at_k_clean"] is not None


def test_an_interval_of_scores_ends_where_scores_do_in_table_and_picture(
    study_and_runs, monkeypatch
):
    wide = Estimate(0.9, 0.7, 1.09, (0.85, 0.9, 0.95), 120)
    monkeypatch.setattr(comparison.metrics, "over_seeds", lambda *_, **__: wide)
    found = compare(*study_and_runs)
    on = found.benchmarks["lab"]
    assert "70.0 to 100.0 %" in score_table(found, on).markdown()
    axes = study_plots.scores(found, on).axes[0]
    assert max(max(line.get_xdata()) for line in axes.lines) == 100
    assert 100 <= axes.get_xlim()[1] <= 103


def test_runs_of_a_pair_are_named_by_the_seeds_they_were_trained_with(study_and_runs, tmp_path):
    study, runs = study_and_runs
    pair = study.model_copy(update={"seeds": [0]})
    own = [
        replace(run, settings=run.settings.model_copy(update={"seed": seed}))
        for run, seed in zip([run for run in runs if run.seed == 0], (4, 5, 6), strict=True)
    ]
    found = compare(pair, own)
    text = terminal(found, shared(own))
    for row in ("plain (gains 0.05 a stage)", "better (gains 0.11 a stage)"):
        assert row in text
    cells = [row[0] for row in budgets(found).rows]
    assert cells == [("plain", "seed 4"), ("better", "seed 5"), ("same", "seed 6")]
    rows = score_table(found, found.benchmarks["lab"]).rows
    assert [row[0][1].splitlines()[-1] for row in rows[1:]] == [
        "baseline; seed 4", "seed 5", "seed 6"
    ]  # fmt: skip
    assert [row[0] for row in differences(found).rows] == [("seed", "")]


def test_runs_look_different_in_figures(study_and_runs):
    """Two seeds of one experiment, and names whose middle alone differs."""
    study, runs = study_and_runs
    names = ("lab_deepscaler-seed0", "lab_deepscaler-seed1", "lab_deepscaled_er-seed1")
    arms = [Arm(name=name) for name in names]
    renamed = dict(zip(GAINS, names, strict=True))
    found = compare(
        study.model_copy(update={"arms": arms, "baseline": names[0]}),
        [replace(run, arm=renamed[run.arm]) for run in runs],
    )
    on = found.benchmarks["lab"]
    legend = study_plots.learning(found, on, "updates").axes[0].get_legend_handles_labels()[1]
    ticks = [tick.get_text() for tick in study_plots.scores(found, on).axes[0].get_yticklabels()]
    for shown in (ticks, [label for label in legend if label.startswith("lab_")]):
        assert len(set(shown)) == 3 and max(map(len, shown)) <= 20
    title = study_plots.by_problem(found, on, names[1])._suptitle.get_text().replace("\n", " ")
    assert "seed1 minus" in title and "seed0, by problem" in title


def test_long_names_stay_inside_their_figures(made_up_run, tmp_path):
    gains = {"plain": 0.05, **{f"an_ablation_experiment_{number}": 0.05 for number in range(7)}}
    study, runs = made_up_study(
        made_up_run, tmp_path, steps=2, seeds=(0,), gains=gains, problems=12, samples=2,
        benchmark="olympiad_bench_text_only_in_english",
    )  # fmt: skip
    found = compare(study, runs)
    [on] = found.benchmarks.values()
    reward = study_plots.training(found, "reward/mean", "Reward", "mean reward", "updates")
    for figure in (
        study_plots.differences(found, on),
        study_plots.learning(found, on, "device_seconds"),
        reward,
    ):
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        texts = [figure._suptitle, *figure.legends[0].get_texts(), figure.axes[0].yaxis.label]
        for text in [text for text in texts if text.get_text()]:
            box = text.get_window_extent()
            assert min(box.x0, box.y0) >= -1 and box.x1 <= width and box.y1 <= height + 1, text
    assert "\n" in study_plots.differences(found, on)._suptitle.get_text()
    # As high as where the legend has one line.
    alone = study_plots.training(
        replace(found, study=study.model_copy(update={"arms": study.arms[:1]})),
        "reward/mean",
        "Reward",
        "mean reward",
        "updates",
    )
    heights = []
    for figure in (reward, alone):
        figure.get_layout_engine().execute(figure)
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[0] > 0.9 * heights[1]


def test_tables_name_what_is_compared(found, study_and_runs):
    on = found.benchmarks["lab"]
    assert score_table(found, on).columns[:4] == ["arm", "avg@8", "minus plain", "detectable"]
    assert "published" in score_table(found, on).columns
    assert average(found) is None
    assert "at 32 optimizer updates" in matched(found, on).columns
    once = {budget: {**at, "budget": 1} for budget, at in on.arms["plain"]["at_budget"].items()}
    one = replace(on, arms={name: {**arm, "at_budget": once} for name, arm in on.arms.items()})
    assert matched(found, one).columns[1] == "at 1 optimizer update"
    assert "Small print" not in terminal(found, shared(study_and_runs[1]))
    assert differences(found).notes == ["All arms have the same settings."]
