"""The five published test sets: loaded, answered by a stand-in of known skill, graded, reported."""

import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conf.load import load
from conf.schema.study import Arm, Study
from tasks import generations
from tasks.arm_runs import ArmRun
from tasks.artifacts import read_json
from tasks.comparison import compare
from tasks.download import download
from tasks.evaluate import evaluate
from tasks.model import starting_model
from tasks.sharing import sharing
from tasks.study_report import write_study_report
from trainer.generate import Request, Response, made, missing, write_part

FOLDER = Path(
    os.environ.get("STAGECRAFT_FASTCURL_DATA")
    or Path(__file__).parents[2].parent / "shared" / "data" / "fastcurl"
)


class NoTracker:
    """Takes what a tracker takes, and keeps nothing."""

    @contextmanager
    def child_run(self, *_arguments, **_settings):
        yield SimpleNamespace(log_metrics=lambda *_: None)

    def log(self, *_):
        pass


ROWS = {"aime2024": 30, "math500": 500, "amc2023": 83, "minerva": 272, "olympiadbench": 675}
pytestmark = pytest.mark.skipif(
    not (FOLDER / "test").is_dir(), reason=f"the published test sets are not in {FOLDER}"
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Each set with the chances of the stand-in, and its evaluation; two responses a problem."""
    output = tmp_path_factory.mktemp("five")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAGECRAFT_FASTCURL_DATA", str(FOLDER))
        settings = load(
            "experiment=lab/smoke", "evaluation=fastcurl_files", f"output={output}",
            "evaluation.samples=2", "data.unanswerable=keep",
        )  # fmt: skip
        base = starting_model(settings.model)
        found = {}
        for source in settings.evaluation.benchmarks:
            benchmark = download(source, settings.data, output)
            chances = np.random.default_rng(benchmark.rows).beta(0.5, 0.5, benchmark.rows)
            patch.setattr(generations, "run_guarded", stand_in(benchmark, chances))
            at = evaluate(settings, benchmark, base, "base", -1, NoTracker(), "none")
            found[source.name] = (benchmark, chances, at)
    return settings, found


def stand_in(benchmark, chances):
    """A sampling process that answers each problem correctly with its chance."""
    rows = benchmark.table().to_pylist()
    skill = dict(zip([row["id"] for row in rows], chances, strict=True))
    truth = {row["id"]: row["answers"][0] for row in rows}
    random = np.random.default_rng(1)

    def run(_module, arguments, **_) -> int:
        folder = Path(arguments[0])
        jobs = missing(Request(**read_json(folder / "request.json")), made(folder))
        right = random.random(len(jobs)) < [skill[name] for name, _ in jobs]
        texts = [
            f"<think>so</think>\\boxed{{{truth[name] if good else 'no idea'}}}"
            for (name, _), good in zip(jobs, right, strict=True)
        ]
        write_part(
            folder,
            [Response(*job, text, 9, False) for job, text in zip(jobs, texts, strict=True)],
            1.0,
        )
        return 0

    return run


@pytest.mark.parametrize("name", ROWS)
def test_scores_match_the_skill_that_answered(scored, name):
    _, found = scored
    benchmark, chances, at = found[name]
    assert benchmark.rows == at["problems"] == ROWS[name]
    # These problems are given: only the draws of two responses each are luck.
    error = np.sqrt((chances * (1 - chances)).sum() / 2) / len(chances)
    assert abs(at["metrics"]["avg_at_k"] - chances.mean()) < 3.3 * error


def test_the_report_of_five_sets_names_each_and_their_mean(scored, tmp_path):
    settings, found = scored
    evaluations = [{**at, "position": len(settings.stages) - 1} for _, _, at in found.values()]
    runs = [ArmRun(arm, 0, settings, "again", [], evaluations) for arm in ("one", "other")]
    study = Study(name="five", arms=[Arm(name="one"), Arm(name="other")], seeds=[0])
    numbers = compare(study, runs)
    assert numbers.benchmarks["math500"].arms["other"]["difference"]["mean"] == 0
    shared = sharing([(f"{run.arm} seed 0", settings) for run in runs])
    report = write_study_report(numbers, shared, folder=tmp_path / "report", command="again")
    assert all(f"{name}: {rows:,} problems" in report.markdown for name, rows in ROWS.items())
    assert "Mean of 5 benchmarks" in report.markdown
