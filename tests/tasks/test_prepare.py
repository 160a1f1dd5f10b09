import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import ConfigError, load
from conf.schema import Data, Segmentation, Stage
from tasks import doubts, pass_rates, preflight, prepare, tables
from tasks.artifacts import Dataset, read_json
from tasks.datacard import facts, write_card
from tasks.datacard_page import markdown
from tasks.download import download
from tasks.prompt_lengths import tokenizer_digest
from tasks.segment import Measured, pruned, segment, segmented
from tasks.upstream import to_columns
from trainer.lab import BASE

CARD = {"data_card.html", "data_card.md", "data_card.json"}


@pytest.fixture
def settings(tmp_path):
    """Settings of a small set with some of each fault, and a test set that it overlaps with."""
    rows = [{"problem": f"{n} a+2 =?", "answer": str((n + 2) % 10)} for n in range(10)]
    rows += [rows[0], rows[1] | {"answer": "9"}, {"problem": "<b>5</b> | `a`", "answer": ""}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "test.json").write_text(json.dumps([rows[3]]))

    def make(*overrides, output="out"):
        return load(
            "experiment=lab/smoke",
            "gates=default",
            "data.train.kind=file",
            f"data.train.path={tmp_path / 'train.json'}",
            f"evaluation.benchmarks=[{{name:test,kind:file,path:'{tmp_path / 'test.json'}'}}]",
            f"output={tmp_path / output}",
            *overrides,
        )

    return make


def prepared(experiment):
    output = Path(experiment.output)
    train = download(experiment.data.train, experiment.data, output)
    tests = {
        one.name: download(one, experiment.data, output)
        for one in prepare.comparison_sources(experiment)
    }
    kept = prepare.gated(experiment, train, tests, BASE, output)
    known = prepare.measured(experiment, kept, BASE, None)
    return prepare.Prepared(train, kept, segment(kept, experiment.data, output, known)), tests


def test_gates_leave_out_what_they_say_and_the_manifest_counts_it(settings):
    ready, _ = prepared(settings())
    kept = ready.kept.table()["index"].to_pylist()
    assert kept == [0, 2, 4, 5, 6, 7, 8, 9]  # 1 and 11 contradict each other, 3 is a test problem
    counts = ready.kept.manifest["gates"]
    assert counts["exact_duplicates"] == {"action": "keep-first", "found": 2, "dropped": 1}
    assert counts["conflicting_answers"]["dropped"] == 2
    assert counts["overlap_exact"]["dropped"] == 1
    assert counts["ungradable_answers"]["dropped"] == 1
    assert ready.kept.manifest["parent_digest"] == ready.train.digest
    assert ready.segments["L2"].digest == ready.kept.digest


def test_the_published_gates_keep_every_row(settings):
    ready, _ = prepared(settings("gates=as_published"))
    assert ready.kept.digest == ready.train.digest
    assert ready.kept.manifest["gates"]["conflicting_answers"]["found"] == 2


def test_what_was_prepared_is_found_and_not_made_again(settings):
    experiment = settings()
    assert prepare.prepared_there(experiment, experiment.output) is None
    ready, tests = prepared(experiment)
    made = ready.kept.path.stat().st_mtime_ns
    assert prepare.prepared_there(experiment, experiment.output) == ready
    assert prepared(experiment) == (ready, tests)
    assert ready.kept.path.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    "override",
    ["gates.overlap_exact=flag", "gates.ngram=5", "data.max_prompt_length=47"],
)
def test_what_can_change_a_finding_makes_another_set(settings, override):
    first, _ = prepared(settings())
    assert prepare.prepared_there(settings(override), settings().output) is None
    assert prepared(settings(override))[0].kept.folder != first.kept.folder


def test_every_file_is_the_same_byte_for_byte_elsewhere_and_with_other_workers(settings):
    one, _ = prepared(settings("gates.workers=1"))
    for place, workers in (("second", 1), ("third", 3)):
        other, _ = prepared(settings(f"gates.workers={workers}", output=place))
        for mine, its in (
            (one.train, other.train),
            (one.kept, other.kept),
            *((one.segments[name], other.segments[name]) for name in ("L1", "L2", "L3")),
        ):
            assert mine.digest == its.digest and mine.folder.name == its.folder.name
            assert mine.path.read_bytes() == its.path.read_bytes()
        findings = [read_json(each.kept.folder / prepare.FINDINGS) for each in (one, other)]
        assert findings[0] == findings[1]


def test_a_set_whose_file_was_cut_is_not_used(settings):
    experiment = settings()
    ready, _ = prepared(experiment)
    whole = ready.kept.path.read_bytes()
    ready.kept.path.write_bytes(whole[:-100])
    with pytest.raises(
        ValueError, match=r"is not the file that manifest\.json beside it describes"
    ):
        prepared(experiment)


def test_gates_that_were_interrupted_leave_nothing_behind(settings, monkeypatch):
    experiment = settings()
    monkeypatch.setattr(
        "tasks.artifacts.rows_digest", lambda table: 1 / 0 if len(table) < 13 else ""
    )
    with pytest.raises(ZeroDivisionError):
        prepared(experiment)
    folders = {path.name.split("-")[0] for path in (Path(experiment.output) / "data").iterdir()}
    assert not any(path.name.endswith("-gated") for path in Path(experiment.output).rglob("*"))
    assert not any(name.startswith(".") for name in folders)


def test_gates_compare_with_further_sets_too(settings, tmp_path):
    (tmp_path / "more.json").write_text(json.dumps([{"problem": "4 a+2 =?", "answer": "6"}]))
    more = f"gates.against=[{{name:more,kind:file,path:'{tmp_path / 'more.json'}'}}]"
    ready, tests = prepared(settings(more))
    assert list(tests) == ["test", "more"]
    assert 4 not in ready.kept.table()["index"].to_pylist()
    with pytest.raises(ConfigError, match=r"gates\.against: found 'test', which is a set of"):
        preflight.check_sources(settings(more.replace("name:more", "name:test")))


def test_questions_are_divided_by_their_tokens(settings):
    ready, _ = prepared(
        settings("data.segmentation.rule=tokens", "data.segmentation.names=[short,long]")
    )
    assert list(ready.segments) == ["short", "long", "all"]
    manifest = ready.segments["short"].manifest
    assert manifest["tokenizer_digest"] == tokenizer_digest(BASE)
    assert ready.segments["short"].rows + ready.segments["long"].rows == 8
    assert (
        prepare.prepared_there(
            settings("data.segmentation.rule=tokens", "data.segmentation.names=[short,long]"),
            settings().output,
        ).segments
        == ready.segments
    )


def test_a_tokenizer_is_named_by_its_files_not_by_its_weights(tmp_path):
    copy = shutil.copytree(BASE, tmp_path / "model")
    (copy / "model.safetensors").write_bytes(b"other")
    assert tokenizer_digest(copy) == tokenizer_digest(BASE)
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert tokenizer_digest(copy) != tokenizer_digest(BASE)


def test_pass_rates_divide_a_set_and_their_digest_names_it(tmp_path):
    rows = [{"question": f"{n}?", "answer": "1"} for n in range(4)]
    train = Dataset.write(tmp_path / "train", "toy", to_columns(rows, "toy", ""))
    data = Data(segmentation=Segmentation(rule="pass_rate", names=["hard", "middle", "easy"]))

    def measured(rates, digest):
        return Measured(digest, lambda table: rates, {"model": "m"})

    sets = segment(train, data, tmp_path, measured([0.0, 0.5, 1.0, 0.5], "one"))
    assert {name: part.rows for name, part in sets.items()} == {
        "hard": 1, "middle": 2, "easy": 1, "all": 4,
    }  # fmt: skip
    assert sets["hard"].manifest["bands"] == [0.0, 0.2, 0.8, 1.0]
    assert segmented(train, data, tmp_path, measured([], "one")) == sets
    assert segmented(train, data, tmp_path, measured([], "two")) is None


def test_pass_rates_are_means_of_graded_responses(tmp_path):
    path = tmp_path / "responses.parquet"
    columns = {"id": ["b", "a", "b", "a"], "sample": [0, 0, 1, 1]}
    pq.write_table(pa.table({**columns, "correct": [True, False, False, False]}), path)
    assert pass_rates.by_id(path) == {"a": 0.0, "b": 0.5}
    pq.write_table(pa.table({"id": ["a", "b", "b"], "correct": [True] * 3}), path)
    with pytest.raises(ValueError, match="holds 1 to 2 responses to a problem"):
        pass_rates.by_id(path)


def test_a_stage_trains_on_what_the_one_before_did_not_solve(tmp_path):
    rows = [{"question": f"{n}?", "answer": "1"} for n in range(6)]
    train = Dataset.write(tmp_path / "train", "toy", to_columns(rows, "toy", ""))
    stage = Stage(batch_size=3, mini_batch_size=3, drop_solved=1.0, drop_hopeless=0.0)
    rates = {"toy-0": 1.0, "toy-1": 0.0, "toy-2": 0.5, "elsewhere": 0.0}
    left = pruned(train, stage, rates, tmp_path)
    assert left.table()["id"].to_pylist() == ["toy-2", "toy-3", "toy-4", "toy-5"]
    assert (left.manifest["dropped"], left.manifest["parent_digest"]) == (2, train.digest)
    made = left.path.stat().st_mtime_ns
    assert pruned(train, stage, rates, tmp_path) == left and left.path.stat().st_mtime_ns == made
    with pytest.raises(ValueError, match=r"found 0 of 6 prompts left .*needed the 3 of a step\n\n"):
        pruned(train, stage, {f"toy-{n}": 1.0 for n in range(6)}, tmp_path)
    with pytest.raises(ValueError, match="found 2 of 6 prompts left"):
        pruned(train, stage, {f"toy-{n}": 1.0 for n in range(4)}, tmp_path)
    assert pruned(train, stage, {f"toy-{n}": 1.0 for n in range(3)}, tmp_path).rows == 3


def test_prompt_sets_go_by_the_names_of_their_rule(settings):
    with pytest.raises(
        ConfigError, match=r"stages\.0\.prompts: found 'L1', needed one of Q1, Q2, all"
    ):
        preflight.check_settings(settings("data.segmentation.rule=tokens"))
    preflight.check_settings(
        settings("data.segmentation.rule=tokens", "stages.0.prompts=Q1", "stages.1.prompts=all")
    )
    with pytest.raises(ConfigError, match=r"stages\.0: found drop_solved or drop_hopeless, but no"):
        preflight.check_settings(settings("stages.0.drop_solved=1"))


def test_a_level_that_no_problem_has_is_refused_before_training(tmp_path):
    experiment = load(
        "experiment=lab/smoke",
        f"output={tmp_path}",
        "data.segmentation.rule=level",
        "stages.0.prompts=level99",
        "stages.1.prompts=all",
    )
    preflight.check_settings(experiment)
    train = download(experiment.data.train, experiment.data, tmp_path)
    sets = segment(train, experiment.data, tmp_path)
    with pytest.raises(ConfigError, match=r"found 'level99', needed one of level2, level3, .*all"):
        preflight.check_data(experiment, sets, {"lab_test": train}, BASE)


def test_a_card_says_what_is_in_a_set_and_what_keeping_it_costs(settings):
    ready, tests = prepared(settings("gates=as_published"))
    card = write_card(ready, tests, settings().output)
    assert {path.name for path in card.folder.iterdir()} == CARD
    content = read_json(card.folder / "data_card.json")
    assert content["sets"]["as downloaded"]["rows"] == 13
    assert content["sets"]["L1"]["answers"] and content["benchmarks"] == {"test": 1}
    assert sum(content["sets"]["as downloaded"]["histogram"]["counts"]) == 13
    assert content["overlap"]["L2"]["test"]["overlap_exact"] == 1
    assert "2 repeats of another row's question" in content["cost"]
    assert "contradictory answers to 1 question (2 rows)" in content["cost"]
    assert "1 evaluation problem seen in training (1 of test)" in content["cost"]
    assert write_card(ready, tests, settings().output) == card


def test_a_card_shows_what_problems_say_as_text(settings):
    ready, tests = prepared(settings("gates=as_published"))
    card = write_card(ready, tests, settings().output)
    page = card.html.read_text()
    assert "<b>5</b>" not in page and "&lt;b&gt;5&lt;/b&gt; | `a`" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "`train-12: <b>5</b> | 'a'`" in card.markdown.replace("lab_train", "train")


def test_a_card_s_tables_keep_their_shape_whatever_sets_are_called(settings):
    ready, tests = prepared(settings())
    content = facts(ready, tests)
    for one in content["sets"].values():
        one["sources"] = {"a|b": one["rows"]}
    head, rule, *rows = markdown(content).split("## Sources")[1].split("\n\n")[1].split("\n")
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)]
    assert r"a\|b" in head and set(cells) == {3}


def test_a_card_of_cleaned_data_claims_no_cost(settings):
    ready, tests = prepared(settings())
    content = read_json(write_card(ready, tests, settings().output).folder / "data_card.json")
    assert content["cost"] == ""
    assert content["overlap"]["after the gates"]["test"]["overlap_exact"] == 0
    assert content["sets"]["as downloaded"]["answers"]["none"] == 1


def test_a_card_shows_no_examples_where_there_are_none(tmp_path):
    experiment = load("experiment=lab/smoke", f"output={tmp_path}")
    ready, tests = prepared(experiment)
    card = write_card(ready, tests, tmp_path)
    assert "Examples" not in card.markdown and "Examples" not in card.html.read_text()


def test_a_card_tells_the_division_by_its_knobs_and_in_numbers_people_read(settings):
    ready, tests = prepared(settings())
    text = markdown(facts(ready, tests)).split("## Division")[1]
    rows = dict(re.findall(r"^\| ([^|]+?) +\| ([^|]+?) +\|$", text, re.MULTILINE))
    assert (rows["rule"], rows["length of"]) == ("length", "raw question")
    assert rows["mean"] == "8" and rows["counts"] == "L1 8, L2 8, L3 0"
    assert rows["parent digest"] == ready.kept.digest[:12]


def test_test_problems_that_stand_there_twice_are_told(settings, tmp_path):
    problem = {"problem": "1 + 1?", "answer": "2"}
    rows = [problem, problem, {"problem": "1+1 ?", "answer": "2"}, {"problem": "1?", "answer": "1"}]
    ready, tests = prepared(settings())
    assert doubts.repeated(tests) == [] and facts(ready, tests)["doubts"] == []
    (tmp_path / "test.json").write_text(json.dumps(rows))
    ready, tests = prepared(settings())
    (told,) = doubts.repeated(tests)
    assert told.startswith("test: 2 of 4 rows repeat another's question; ")
    card = write_card(ready, tests, settings().output)
    assert told in card.html.read_text().replace("&#39;", "'") and told in card.markdown
    report = tables.data(ready.kept, ready.segments, settings(), tests)
    assert told in report.notes


def test_prompts_without_a_level_are_told_where_levels_divide_them(tmp_path):
    rows = [{"question": f"{n}?", "answer": "1", "level": n % 2 or "?"} for n in range(6)]
    train = Dataset.write(tmp_path / "train", "toy", to_columns(rows, "toy", ""))
    by_level = segment(train, Data(segmentation=Segmentation(rule="level")), tmp_path)
    assert doubts.without_level(by_level) == ["3 of 6 prompts have no level: in `all` alone."]
    assert doubts.without_level(segment(train, Data(), tmp_path)) == []
