"""Two made-up runs, compared by the folders they left."""

import pytest

from tasks.artifacts import digest_of, write_json
from tasks.pair import pair
from tasks.report import write_report
from tasks.study_report import _saved
from tasks.study_verdict import cost


@pytest.fixture
def made(made_up_run, tmp_path):
    """A run with its report, in an output folder of that name; its path below reports/."""

    def make(name):
        run = made_up_run(
            tmp_path / name, problem_seed=7, steps=1, problems=12, samples=2,
            stages=(("short", "L1", 64), ("middle", "L2", 128)), recorded=("reward/mean",),
        )  # fmt: skip
        for stage in run.given["stages"]:
            identity = {"name": stage["name"]}
            stage |= {"identity": identity, "digest": digest_of(identity)}
            stage["checkpoint"] = {"path": str(stage["folder"]), "digest": "x"}
            write_json(stage["folder"] / "stage.json", _written(stage))
        for each in run.given["evaluations"]:
            each |= {"checkpoint": {"path": "p", "digest": each["label"]}, "data_digest": "d"}
            write_json(each["folder"] / "evaluation.json", _written(each))
        folder = write_report(run.experiment, **run.given).folder
        return folder.rename(folder.with_name(name))

    return make


def _written(manifest):
    return {key: value for key, value in manifest.items() if key != "folder"}


@pytest.mark.usefixtures("plain_figures")
def test_only_a_stage_that_lies_in_one_place_was_shared(made, tmp_path):
    """The same settings in two output folders: both were trained."""
    one, other = made("one"), made("other")
    found, apart = pair(tmp_path, str(one), str(other))
    assert len(apart.stages) == 4 and apart.saved("steps_at_128") == 0
    assert "Sharing" not in cost(found, apart) and "4 distinct stages" in cost(found, apart)
    assert _saved(apart) == "These arms share no stages."
    again = one.with_name("again")
    again.mkdir()
    (again / "summary.json").write_bytes((one / "summary.json").read_bytes())
    found, together = pair(tmp_path, str(one), str(again))
    assert len(together.stages) == 2 and together.saved("steps_at_128") == 0.5
    assert "2 distinct stages" in cost(found, together)
