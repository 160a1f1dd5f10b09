"""Data alone, and what of it reaches the stages: gates, pass rates, and prompts left out."""

import json

import pytest

from flows import parameters, steps
from flows.data import data, main
from flows.pipeline import pipeline
from tasks.artifacts import MANIFEST, read_json
from tasks.train_stage import train_stage
from trainer.records import append_record

pytestmark = pytest.mark.usefixtures("prefect")


def manifests(output):
    found = [read_json(path) for path in sorted((output / "data").glob(f"*/{MANIFEST}"))]
    return {one["name"]: one for one in found}


def test_data_alone_is_brought_inspected_and_divided(tmp_path, caplog):
    twice = tmp_path / "twice.json"
    twice.write_text(json.dumps([{"problem": "1+1?", "answer": "2"}] * 2))
    tests = f"evaluation.benchmarks=[{{name:lab_test,kind:file,path:'{twice}'}}]"
    path = data("lab/smoke", ["gates=default", tests], str(tmp_path))
    assert path.endswith("data_card.html")
    assert "warning: lab_test: 1 of 2 rows repeats another's question" in caplog.text
    found = manifests(tmp_path)
    assert {"lab_train", "lab_train-L1", "lab_train-L2", "lab_train-L3", "lab_test"} == set(found)
    assert not (tmp_path / "stages").exists() and not (tmp_path / "evaluations").exists()
    (kept,) = (tmp_path / "mlartifacts").glob("**/report")
    assert {one.name for one in kept.iterdir()} == {
        f"data_card.{kind}" for kind in ("html", "md", "json")
    }


def test_data_needs_no_gpu_and_no_room_for_checkpoints(tmp_path):
    settings = parameters.data_settings_of("lab/smoke", ["hardware=gpu8"], str(tmp_path))
    assert settings.hardware.device == "cuda"


def test_data_that_is_not_there_is_refused_before_the_flow_starts(tmp_path, capsys):
    code = main(["experiment=lab/smoke", "data=fastcurl_files", "data.train.path=none.parquet"])
    assert code == 2
    assert "fastcurl_train: no file none.parquet" in capsys.readouterr().err


def test_a_set_that_the_gates_empty_fails_in_words(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"problem": "1+1?", "answer": ""}]))
    overrides = ["gates=default", "data.train.kind=file", f"data.train.path={tmp_path / 'a.json'}"]
    with pytest.raises(ValueError, match=r"the gates leave none of 1 rows"):
        data("lab/smoke", overrides, str(tmp_path / "out"))


def test_a_models_pass_rates_divide_the_set_that_it_trains_on(quick, tmp_path):
    overrides = [
        "data.segmentation.rule=pass_rate",
        "data.segmentation.bands=[0,0.5,1]",
        "data.segmentation.samples=2",
        "data.segmentation.context_length=48",
        "stages.0.prompts=P1",
        "stages.1.prompts=all",
    ]
    pipeline("lab/smoke", overrides, str(tmp_path))
    # The stand-in answers 0 always: right for one problem in ten or so, and then in all samples.
    hard, easy = (manifests(tmp_path)[f"lab_train-{name}"] for name in ("P1", "P2"))
    assert hard["rows"] + easy["rows"] == 64 and 0 < easy["rows"] < 20
    assert (hard["samples"], hard["context_length"], easy["always"]) == (2, 48, easy["rows"])
    sampled = len(quick.scored)
    pipeline("lab/smoke", overrides, str(tmp_path))
    assert len(quick.scored) == sampled, "what was sampled is not sampled again"


def test_a_later_stage_leaves_out_what_the_one_before_solved(quick, tmp_path, monkeypatch):
    trained = []

    def recording(settings, position, prompts, *rest):
        ids = prompts.table()["id"].to_pylist()
        trained.append(ids)
        manifest = train_stage(settings, position, prompts, *rest)
        # The trainer's record of what was drawn: the first half solved, the rest half right.
        groups = [
            {"number": at, "id": id_, "correct": 4 if at < len(ids) // 2 else 2,
             "rollouts": 4, "fate": "trained"}
            for at, id_ in enumerate(ids)
        ]  # fmt: skip
        sealed = manifest["folder"] / "groups.jsonl"
        if not sealed.exists():
            append_record(sealed, {"step": 1, "groups": groups})
        return manifest

    monkeypatch.setattr(steps, "train_stage", recording)
    overrides = ["stages.0.prompts=L2", "stages.1.prompts=L2", "stages.1.drop_solved=1"]
    pipeline("lab/smoke", overrides, str(tmp_path))
    assert len(trained[0]) == 64 and trained[1] == trained[0][32:]
    pipeline("lab/smoke", overrides, str(tmp_path))
    assert len(quick.trained) == 2, "the same prompts are found again, so nothing is trained again"
    pages = list((tmp_path / "mlartifacts").glob("**/report/data/data_card.html"))
    assert len(pages) == 2 and all("Data card" in page.read_text() for page in pages)
