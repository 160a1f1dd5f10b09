"""Responses that are kept: none is sampled twice, a killed process resumes, counts are checked."""

import json
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import load
from tasks import generations, machine
from tasks.artifacts import digest_of, read_json
from tasks.download import download
from tasks.evaluate import evaluate, request
from tasks.evaluations import undecided
from tasks.model import Checkpoint, starting_model
from tasks.progress import SamplingProgress
from tasks.results import checkpoint_rows
from tasks.tables import versions
from trainer import generate
from trainer.generate import Response, made, missing, parts, write_part
from trainer.process import StalledError
from trainer.rewards import Grade, Reason


class NoTracker:
    """Takes what a tracker takes, and keeps nothing."""

    @contextmanager
    def child_run(self, *_arguments, **_settings):
        yield SimpleNamespace(run_id="none", log_metrics=lambda *_: None)

    def log(self, *_):
        pass


@pytest.fixture
def tracked() -> NoTracker:
    return NoTracker()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("generations")
    return load("experiment=lab/smoke", f"output={output}", "evaluation.context_length=24",
                "evaluation.batch_size=5")  # fmt: skip


@pytest.fixture(scope="module")
def benchmark(smoke):
    return download(smoke.evaluation.benchmarks[0], smoke.data, Path(smoke.output))


@pytest.fixture(scope="module")
def base(smoke) -> Checkpoint:
    return starting_model(smoke.model)


@pytest.fixture(scope="module")
def wanted(smoke, benchmark, base):
    return request(smoke, benchmark, base)


@pytest.fixture(scope="module")
def whole(wanted, benchmark, tmp_path_factory) -> list[dict]:
    """Two responses to each of eight problems, sampled in one go."""
    folder = tmp_path_factory.mktemp("whole")
    generate.generate(wanted, folder)
    return generations.read(folder, benchmark, 2)[0].to_pylist()


def test_a_process_that_was_killed_loses_what_it_had_in_hand_and_no_more(
    wanted, benchmark, whole, tmp_path, monkeypatch
):
    engine = generate.torch_responses

    def killed(*given):
        batches = engine(*given)
        yield next(batches)
        yield next(batches)
        raise KeyboardInterrupt

    monkeypatch.setitem(generate.ENGINES, "torch", killed)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(wanted, tmp_path)
    (tmp_path / ".part-1-cut.parquet").write_bytes(b"half of a par")
    kept = {path: path.stat().st_mtime_ns for path in parts(tmp_path)}
    assert len(made(tmp_path)) == 10
    asked = []

    def counted(request, jobs, tokenizer):
        asked.extend(jobs)
        return engine(request, jobs, tokenizer)

    monkeypatch.setitem(generate.ENGINES, "torch", counted)
    generate.generate(wanted, tmp_path)
    assert len(asked) == 6
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert generations.read(tmp_path, benchmark, 2)[0].to_pylist() == whole


def test_more_samples_are_added_to_those_that_are_there(wanted, benchmark, whole, tmp_path):
    one, two = replace(wanted, samples=1), wanted
    generate.generate(one, tmp_path)
    first = {path: path.read_bytes() for path in parts(tmp_path)}
    generate.generate(two, tmp_path)
    assert {path: path.read_bytes() for path in first} == first
    assert generations.read(tmp_path, benchmark, 2)[0].to_pylist() == whole
    alone, seconds = generations.read(tmp_path, benchmark, 1)
    assert alone.to_pylist() == [row for row in whole if row["sample"] == 0]
    assert 0 < seconds < generations.read(tmp_path, benchmark, 2)[1]


def test_engines_that_divide_the_work_make_the_responses_of_one(wanted, benchmark, whole, tmp_path):
    for shard in (0, 1):
        generate.generate(replace(wanted, shards=2), tmp_path, shard)
    assert generations.read(tmp_path, benchmark, 2)[0].to_pylist() == whole


@pytest.mark.parametrize("fault", ["missing", "twice", "strange"])
def test_responses_are_counted_before_they_are_graded(wanted, benchmark, tmp_path, fault):
    jobs = missing(wanted, set())
    if fault == "missing":
        jobs = jobs[1:]
    write_part(tmp_path, [Response(*job, "", 1, False) for job in jobs], 1.0)
    if fault != "missing":
        name = jobs[0][0] if fault == "twice" else "nobody"
        write_part(tmp_path, [Response(name, 0, "", 1, False)], 1.0)
    with pytest.raises(ValueError, match=r"has \d+ responses, needed 16: 2 to each of 8 problems"):
        generations.read(tmp_path, benchmark, 2)


@pytest.mark.parametrize("fault", ["fewer", "twice"])
def test_an_engine_that_gives_other_responses_than_asked_is_refused(
    wanted, tmp_path, monkeypatch, fault
):
    def engine(request, jobs, tokenizer):
        made = [Response(name, number, "", 1, False) for name, number, _ in jobs]
        yield made[1:] if fault == "fewer" else [*made, made[0]]

    monkeypatch.setitem(generate.ENGINES, "torch", engine)
    with pytest.raises(ValueError, match=r"15 responses of 16|a response twice"):
        generate.generate(wanted, tmp_path)


@pytest.fixture
def calls(monkeypatch) -> list:
    """The calls of a sampler that makes up, in no time, what is asked for."""
    calls = []

    def sample(_module, arguments, **_):
        calls.append(arguments)
        folder = Path(arguments[0])
        asked = generate.Request(**read_json(folder / "request.json"))
        jobs = missing(asked, made(folder))
        write_part(folder, [Response(*job, "</think>\\boxed{0}", 5, False) for job in jobs], 1.0)
        return 0

    monkeypatch.setattr(generations, "run_guarded", sample)
    return calls


@pytest.fixture
def experiment(smoke, tmp_path):
    """Of its own output folder, with the data of all."""
    output = tmp_path / "out"
    shutil.copytree(smoke.output, output)
    return smoke.model_copy(update={"output": str(output)})


def test_grading_anew_and_fewer_samples_read_what_is_kept(
    experiment, benchmark, base, tracked, monkeypatch, calls
):
    output = Path(experiment.output)

    def score(experiment):
        return evaluate(experiment, benchmark, base, "base", -1, tracked, "parent")

    first = score(experiment)
    assert len(calls) == 1 and first["metrics"]["k"] == 2
    monkeypatch.setattr("tasks.evaluate.GRADER_VERSION", 10_000)
    anew = score(experiment)
    assert anew["folder"] != first["folder"] and len(calls) == 1
    assert anew["grader"] == 10_000 != first["grader"]
    longer = experiment.reward.model_copy(update={"seconds": 30.0})
    again = score(experiment.model_copy(update={"reward": longer}))
    assert again["sampling"]["grading_seconds"] == 30 and "grading_memory" not in again["sampling"]
    assert again["folder"] != score(experiment)["folder"] and len(calls) == 1
    assert not {"grading_seconds", "grading_memory"} & set(first["sampling"])
    fewer = experiment.evaluation.model_copy(update={"samples": 1})
    assert score(experiment.model_copy(update={"evaluation": fewer}))["metrics"]["k"] == 1
    assert len(calls) == 1
    more = experiment.evaluation.model_copy(update={"samples": 3})
    assert score(experiment.model_copy(update={"evaluation": more}))["metrics"]["k"] == 3
    assert len(calls) == 2
    tables = [pq.read_table(path) for path in parts(output / "generations" / first["generations"])]
    assert [table.num_rows for table in tables] == [16, 8]


def test_responses_are_graded_in_pieces_and_kept_in_order(
    experiment, benchmark, base, tracked, monkeypatch, calls
):
    def graded():
        found = evaluate(experiment, benchmark, base, "base", -1, tracked, "parent")
        return found["metrics"], pq.read_table(found["folder"] / "responses.parquet")

    scores, whole = graded()
    monkeypatch.setattr("tasks.evaluate.GRADER_VERSION", 10_000)
    monkeypatch.setattr("tasks.evaluate.AT_ONCE", 5)
    again, pieces = graded()
    assert again == scores and pieces.equals(whole) and whole.num_rows == 16
    assert whole.schema.field("response").type == pa.string()
    assert whole["id"].to_pylist() == sorted(whole["id"].to_pylist())


def test_texts_are_read_as_a_type_that_sorts_more_than_two_gibibytes(wanted, benchmark, tmp_path):
    """What a column of `string` cannot: Arrow counts its bytes with 32 bits, and one sign."""
    generate.generate(wanted, tmp_path)
    table, _ = generations.read(tmp_path, benchmark, 2)
    assert table.schema.field("response").type == pa.large_string()


@pytest.mark.parametrize(("share", "said"), [(0, ""), (0.125, "2 answers (12.5 %) could not be")])
def test_answers_that_the_grader_gave_up_on_are_counted_and_told(
    experiment, benchmark, base, tracked, monkeypatch, calls, capsys, share, said
):
    def many(responses, *_, **__):
        lost = [Reason.TIMEOUT, Reason.LOST]
        reasons = [Reason.WRONG] * (len(responses) - len(lost)) + lost
        return [Grade(False, reason if share else Reason.WRONG, "7") for reason in reasons]

    monkeypatch.setattr("tasks.evaluate.grade_many", many)
    found = evaluate(experiment, benchmark, base, "base", -1, tracked, "parent")
    assert found["metrics"]["undecided_share"] == share
    assert undecided(found).startswith(said) and bool(undecided(found)) == bool(share)
    assert ("count as wrong" in capsys.readouterr().out) == bool(share)
    [row] = checkpoint_rows([found], [])["lab_test"]
    assert row["note"] == undecided(found)
    del found["metrics"]["undecided_share"]  # as of before it was counted
    assert undecided(found) == ""


def test_what_responses_were_made_on_stays_with_them_when_they_are_graded_anew(
    experiment, benchmark, base, tracked, monkeypatch, calls
):
    def score(version, samples=2):
        now = {"packages": {"torch": version}, "git_commit": ""}
        monkeypatch.setattr(machine, "environment", lambda: now)
        monkeypatch.setattr("tasks.evaluate.environment", lambda: now)
        monkeypatch.setattr("tasks.evaluate.GRADER_VERSION", int(version))
        evaluation = experiment.evaluation.model_copy(update={"samples": samples})
        changed = experiment.model_copy(update={"evaluation": evaluation})
        found = evaluate(changed, benchmark, base, "base", -1, tracked, "parent")
        made_on = [one["packages"]["torch"] for one in found["sampled_on"]]
        return made_on, found["environment"]["packages"]["torch"], found

    assert score("1")[:2] == (["1"], "1")
    assert score("2")[:2] == (["1"], "2") and len(calls) == 1
    made_on, graded_on, found = score("3", samples=3)
    assert (made_on, graded_on, len(calls)) == (["1", "3"], "3", 2)
    [[_, (shown, _)]] = versions([found]).rows
    assert shown == "1, then 3"
    path = Path(experiment.output) / "generations" / found["generations"] / generations.MANIFEST
    path.write_text("of an earlier version, or damaged")
    assert score("4", samples=3)[:2] == ([], "4") and len(calls) == 2


def test_responses_of_another_layout_or_device_are_others_and_those_of_before_keep_their_folder(
    benchmark, base
):
    def told(*overrides):
        experiment = load("experiment=lab/smoke", *overrides)
        wanted = request(experiment, benchmark, base)
        folder = generations.folder_of(Path("out"), benchmark, base, wanted)
        return generations.describe(wanted), folder.name

    for path in (Path(__file__).parents[2] / "conf" / "hardware").glob("*.yaml"):
        described, folder = told(f"hardware={path.stem}")
        assert set(described) == {"samples", *generations.DETERMINING}, path.stem
        del described["samples"]
        of_before = digest_of([base.digest, benchmark.digest, described])
        assert folder.endswith(of_before[:12])
    folders = {told("hardware=gpu8")[1]}
    for key, value in (("tensor_parallel", 2), ("tensor_parallel", 4), ("device", "cpu")):
        described, folder = told("hardware=gpu8", f"hardware.{key}={value}")
        assert described[key] == value, "its scores are others too"
        folders.add(folder)
    assert len(folders) == 4


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda manifest: {**manifest, "metrics": []}, "has no usable 'metrics'"),
        (lambda manifest: {**manifest, "kind": "stage"}, "is of kind 'stage'"),
        (lambda manifest: {**manifest, "metrics": {"k": 2}}, "has no usable 'avg_at_k'"),
        (lambda manifest: True, "holds a bool"),
        (lambda manifest: None, "holds no JSON"),
    ],
)
def test_a_damaged_evaluation_is_graded_again_and_not_sampled_again(
    experiment, benchmark, base, tracked, calls, capsys, damage, fault
):
    def score():
        return evaluate(experiment, benchmark, base, "base", -1, tracked, "parent")

    first = score()
    path = first["folder"] / "evaluation.json"
    damaged = damage(read_json(path))
    path.write_bytes(b"\xff{" if damaged is None else json.dumps(damaged).encode())
    again = score()
    assert again["metrics"] == first["metrics"] and again["folder"] == first["folder"]
    assert len(calls) == 1
    said = capsys.readouterr().out
    assert fault in said and "its responses are to be graded again" in said
    assert read_json(path)["metrics"] == first["metrics"]


def test_arms_of_different_rewards_are_scored_alike_by_the_evaluation_s_form(
    smoke, benchmark, base, tracked, monkeypatch, tmp_path
):
    truth = {row["id"]: row["answers"][0] for row in benchmark.table().to_pylist()}
    calls = []

    def sample(_module, arguments, **_):  # right, and in no box
        calls.append(arguments)
        folder = Path(arguments[0])
        asked = generate.Request(**read_json(folder / "request.json"))
        jobs = missing(asked, made(folder))
        made_up = [
            Response(*job, f"</think>The answer is {truth[job[0]]}.", 5, False) for job in jobs
        ]
        write_part(folder, made_up, 1.0)
        return 0

    monkeypatch.setattr(generations, "run_guarded", sample)

    def score(*settings):
        experiment = load("experiment=lab/smoke", f"output={tmp_path / 'out'}", *settings)
        return evaluate(experiment, benchmark, base, "base", -1, tracked, "parent")

    trained = [score(f"reward={reward}") for reward in ("deepscaler", "areal", "dapo")]
    assert {one["metrics"]["avg_at_k"] for one in trained} == {0.0}
    assert len({one["folder"] for one in trained}) == 1
    free = score("evaluation.boxed=false")
    assert free["metrics"]["avg_at_k"] == 1.0 and free["folder"] != trained[0]["folder"]
    assert len(calls) == 1


@pytest.fixture
def two(smoke, monkeypatch):
    monkeypatch.setattr(generations, "environment", lambda *_: {})
    return lambda wanted, benchmark, base, folder: generations.complete(
        smoke, benchmark, base, replace(wanted, shards=2), folder, "base"
    )


def test_each_sampling_process_is_judged_by_its_own_parts(
    two, wanted, benchmark, base, whole, tmp_path, monkeypatch
):
    turn, seen, sizes = threading.Barrier(2, timeout=60), {}, {}

    def sample(_module, arguments, *, progress, **_):
        shard = int(arguments[1])
        looks = [progress()]
        turn.wait()
        if shard == 1:
            generate.generate(replace(wanted, shards=2), tmp_path, 1)
            sizes[1] = len(parts(tmp_path))
        turn.wait()
        looks += [progress()]
        turn.wait()
        if shard == 0:
            generate.generate(replace(wanted, shards=2), tmp_path, 0)
        seen[shard] = [*looks, progress(), progress()]
        return 0

    monkeypatch.setattr(generations, "run_guarded", sample)
    two(wanted, benchmark, base, tmp_path)
    assert seen == {0: [False, False, True, False], 1: [False, True, False, False]}
    assert generations.read(tmp_path, benchmark, 2)[0].to_pylist() == whole


def test_a_sampling_process_that_stalls_stops_the_others(
    two, wanted, benchmark, base, tmp_path, monkeypatch
):
    ended = []

    def sample(_module, arguments, *, progress, **_):
        if arguments[1] == "1":
            raise StalledError("no progress")
        for _ in range(100):  # it would go on for hours
            progress()
            time.sleep(0.05)
        ended.append(arguments)
        return 0

    monkeypatch.setattr(generations, "run_guarded", sample)
    with pytest.raises(StalledError):
        two(wanted, benchmark, base, tmp_path)
    assert not ended


def test_two_sampling_processes_leave_parts_of_their_own_and_the_responses_of_one(
    two, wanted, benchmark, base, whole, tmp_path
):
    two(wanted, benchmark, base, tmp_path)
    assert {path.name.split("-")[1] for path in parts(tmp_path)} == {"0", "1"}
    assert generations.read(tmp_path, benchmark, 2)[0].to_pylist() == whole


def test_progress_says_problems_rate_and_time_left(tmp_path):
    line = SamplingProgress("base on aime", tmp_path, problems=30, samples=4, left=100)
    write_part(tmp_path, [Response("a", k, "", 50, False) for k in range(40)], 1.0)
    assert line.look() and not line.look()
    assert line.line(20.0) == (
        "base on aime  15/30 problems  0.50 problems/s  100 tokens/s  left 0:30"
    )
