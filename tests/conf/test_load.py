import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from conf.load import FOLDER, ConfigError, checked, choices, load
from conf.overrides import written
from conf.schema import Experiment

ROOT = Path(__file__).parents[2]
EXPERIMENTS = choices("experiment")


def models(model: type[BaseModel] = Experiment) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= models(kind)
    return found


KNOBS = [
    pytest.param(field, id=f"{model.__name__}.{name}")
    for model in sorted(models(), key=lambda model: model.__name__)
    for name, field in model.model_fields.items()
]


@pytest.mark.parametrize("field", KNOBS)
def test_every_knob_has_a_description_a_unit_and_a_default(field):
    assert field.description and field.description.endswith(".")
    assert field.json_schema_extra["unit"]
    assert not field.is_required()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_names_itself(name):
    experiment = load(f"experiment={name}")
    assert experiment.name == name.replace("/", "_")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_first_line_of_an_experiment_is_the_command_that_runs_it(name):
    text = (FOLDER / "experiment" / f"{name}.yaml").read_text()
    assert text.splitlines()[0] == f"# python -m flows.pipeline experiment={name}"


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in ("curriculum", "method", "data", "model", "hardware", "evaluation", "reward")
        for name in choices(group)
    ],
)
def test_every_choice_of_a_group_composes(choice):
    assert isinstance(load("experiment=lab/smoke", choice), Experiment)


def test_a_later_choice_of_a_group_replaces_that_of_the_experiment():
    experiment = load("experiment=lab/fastcurl", "hardware=gpu1", "method=rloo")
    assert experiment.hardware == load("experiment=lab/smoke", "hardware=gpu1").hardware
    assert experiment.method.advantage == "rloo"


def test_one_stage_and_one_benchmark_are_set_by_their_position():
    before = load("experiment=lab/smoke")
    after = load("experiment=lab/smoke", "stages.0.steps=3", "evaluation.benchmarks.0.rows=4")
    assert [stage.steps for stage in after.stages] == [3, before.stages[1].steps]
    assert after.stages[1] == before.stages[1]
    assert after.evaluation.benchmarks[0].rows == 4


def test_a_knob_that_no_file_mentions_is_set_without_a_plus():
    assert "micro_batch" not in (FOLDER / "hardware" / "cpu.yaml").read_text()
    assert load("experiment=lab/smoke", "hardware.micro_batch=7").hardware.micro_batch == 7


def test_files_in_the_environment_are_found(monkeypatch):
    monkeypatch.setenv("STAGECRAFT_FASTCURL_DATA", "/somewhere")
    source = load("experiment=fastcurl", "data=fastcurl_files").data.train
    assert source.path == ["/somewhere/train_L1.parquet", "/somewhere/train_L3.parquet"]


def test_fastcurl_has_the_numbers_of_the_released_scripts():
    """Song et al. 2025: the stage scripts of 17 April 2025 and the README's steps."""
    experiment = load("experiment=fastcurl")
    shape = [
        (s.prompts, s.context_length, s.steps, s.batch_size, s.mini_batch_size, s.group_size)
        for s in experiment.stages
    ]
    assert shape == [
        ("L1", 8192, 160, 128, 64, 8),
        ("L2", 16384, 590, 64, 64, 8),
        ("L3", 24576, 230, 64, 64, 8),
        ("L2", 16384, 580, 64, 64, 16),
    ]
    # "860 steps" of the paper: every step counted at 128 prompts.
    assert sum(s.steps * s.batch_size / 128 for s in experiment.stages) == 860
    assert sum(s.steps * s.batch_size * s.group_size for s in experiment.stages) == 1_177_600


def test_the_lab_keeps_the_shape_of_fastcurl():
    lab, paper = load("experiment=lab/fastcurl"), load("experiment=fastcurl")
    assert [stage.prompts for stage in lab.stages] == [stage.prompts for stage in paper.stages]
    ratio = {
        p.context_length / q.context_length for p, q in zip(paper.stages, lab.stages, strict=True)
    }
    assert len(ratio) == 1


OWN_FILE = ["experiment=lab/smoke", "data.train.kind=file", "data.train.path=a.json"]
REFUSED = [
    # An experiment that is not there: near names, by the last part too.
    (["experiment=fastcrl"], r"(?s)experiment: found 'fastcrl', needed one of .*lab/fastcurl"),
    (["experiment=fastcrl"], r"hint: did you mean fastcurl or fastcurl_v3"),
    ([], r"experiment: found none, needed one of the \d+ that python -m conf.load --help"),
    (["experiment=null"], r"experiment: found 'None', needed one of"),
    # A choice that is not there.
    (
        ["experiment=lab/smoke", "method=gpro"],
        r"found 'gpro', needed one of areal, dapo, deepscaler, dr_grpo, grpo",
    ),
    (["experiment=lab/smoke", "hardware=gpu9"], r"hint: did you mean gpu8 or gpu1\?"),
    (["experiment=lab/smoke", "hardware=zzz"], r"hint: write conf/hardware/zzz\.yaml"),
    # A key that is not there, at each level.
    (["experimnt=lab/smoke"], r"experimnt: no such key.*\n\nhint: did you mean experiment\?"),
    (["experiment=lab/smoke", "sede=1"], r"hint: did you mean seed\?"),
    (["experiment=lab/smoke", "stages.0.stpes=3"], r"hint: did you mean stages\.0\.steps\?"),
    (["experiment=lab/smoke", "stages.0.stpes=3"], r"no such key in stages\.0, needed one of name"),
    (["experiment=lab/smoke", "data.train.file=a"], r"did you mean data\.train\.files"),
    (["experiment=lab/smoke", "seed.x=1"], r"seed\.x: no such key, seed holds a plain value"),
    (["experiment=lab/smoke", "+zzz=1"], r"zzz: no such key, needed one of name.*\n\nhint: take"),
    (
        ["experiment=lab/smoke", "stages.7.steps=1"],
        r"stages\[7\]: found no such entry, the list is shorter",
    ),
    # Values out of bounds: all of them at once.
    (["experiment=lab/smoke", "stages.0.steps=0", "seed=-1"], r"seed: found -1, needed .* 0\n"),
    (["experiment=lab/smoke", "stages.0.steps=0"], r"stages\.0\.steps: found 0, needed greater"),
    (["experiment=lab/smoke", "stages.1.steps=-2"], r"hint: stages\.1\.steps \(steps\): Training"),
    (["experiment=lab/smoke", "stages.0.context_length=0"], r"context_length: found 0, needed gr"),
    (["experiment=lab/smoke", "stages.0.context_length=-64"], r"context_length: found -64"),
    (["experiment=lab/smoke", "stages.0.batch_size=0"], r"stages\.0\.batch_size: found 0, needed"),
    (["experiment=lab/smoke", "stages.0.batch_size=-8"], r"stages\.0\.batch_size: found -8"),
    (["experiment=lab/smoke", "stages.0.mini_batch_size=0"], r"mini_batch_size: found 0, needed"),
    (["experiment=lab/smoke", "data.max_prompt_length=0"], r"data\.max_prompt_length: found 0"),
    (["experiment=lab/smoke", "stages.0.learning_rate=inf"], r"needed a finite number"),
    (["experiment=lab/smoke", "hardware.micro_batch=2.5"], r"needed a valid integer"),
    (["experiment=lab/smoke", "hardware.device=tpu"], r"found 'tpu', needed 'cpu' or 'cuda'"),
    (
        ["experiment=lab/smoke", "data.segmentation.threshold=middle"],
        r"threshold: found 'middle', needed a valid integer.* or 'mean'\n",
    ),
    (["experiment=lab/smoke", "data.segmentation.threshold=0"], r"found 0, needed greater than 0"),
    (["experiment=lab/smoke", "data.segmentation.threshold=-5"], r"found -5, needed .*or 'mean'"),
    (["experiment=lab/smoke", "seed=2147483648"], r"^seed: found 2147483648, needed less than or"),
    (
        ["experiment=lab/smoke", "data.train.seed=2147483648"],
        r"data\.train\.seed: found 2147483648",
    ),
    (["experiment=lab/smoke", "evaluation.seed=-1"], r"evaluation\.seed: found -1, needed greater"),
    (["experiment=lab/smoke", "hardware.memory_share=0"], r"memory_share: found 0, needed greater"),
    (["experiment=lab/smoke", "hardware.memory_share=1.1"], r"needed less than or equal to 1"),
    (["experiment=lab/smoke", "selection.greso.explore=0"], r"explore: found 0, needed greater"),
    (["experiment=lab/smoke", "name=a/b"], r"name: found 'a/b', needed letters, digits"),
    # A source of which something would not be read.
    (
        ["experiment=lab/smoke", "data.train.path=a.parquet"],
        r"data\.train: found path 'a\.parquet', which kind=lab does not read",
    ),
    (["experiment=lab/smoke", "data.train.files=[a]"], r"found files \['a'\], which kind=lab"),
    (["experiment=lab/smoke", "data.train.mirror=/m"], r"found mirror '/m', which kind=lab"),
    (["experiment=fastcurl", "data.train.kind=file"], r"found files .*, which kind=file does not"),
    (["experiment=lab/smoke", "data.train.kind=hub"], r"kind=hub with path '', needed the name"),
    (
        ["experiment=lab/smoke", "evaluation.benchmarks=[{name:test,path:a.jsonl}]"],
        r"evaluation\.benchmarks\.0: found path 'a\.jsonl', which kind=lab does not read",
    ),
    # Columns that make no problem.
    (
        [*OWN_FILE, "data.train.columns={question:input}"],
        r"data\.train: found columns .*, needed one for question and one for answer",
    ),
    (
        [*OWN_FILE, "data.train.columns={question:a,answer:b,text:c}"],
        r"data\.train\.columns: found 'text', needed 'question', 'answer'",
    ),
    (
        [*OWN_FILE, "data.train.columns={question:a,answer:b}", "data.train.format=dapo"],
        r"found columns and format=dapo, needed one of the two",
    ),
    # Sets that nothing would tell apart.
    (
        ["experiment=lab/smoke", "evaluation.benchmarks=[{kind:file,path:a.jsonl}]"],
        r"evaluation\.benchmarks: found a set without a name \(kind=file, path='a\.jsonl'\)",
    ),
    (["experiment=lab/smoke", "gates.against=[{rows:2}]"], r"gates\.against: found a set without"),
    (
        ["experiment=lab/smoke", "evaluation.benchmarks=[{name:a},{name:b},{name:a}]"],
        r"evaluation\.benchmarks: found 2 sets of the name 'a'",
    ),
    # A place in a list that is none.
    (["experiment=lab/smoke", "stages.short.steps=5"], r"did you mean stages\.0\.steps\?"),
    (["experiment=lab/smoke", "stages.steps=5"], r"list, needed a place.*\n\n.*stages\.0\.steps\?"),
    # Values that do not go together.
    (
        ["experiment=lab/smoke", "stages.0.mini_batch_size=99"],
        r"stages\.0: mini_batch_size is 99 prompts, more than the 8 of batch_size\n\nhint: lower",
    ),
    (["experiment=lab/smoke", "stages.0.mini_batch_size=3"], r"8 is no multiple of .* 3"),
    (["experiment=lab/smoke", "stages.1.name=1-L1-64"], r"^stages has '1-L1-64' twice"),
    # Settings taken away.
    (["experiment=lab/smoke", "~stages"], r"stages: found '~stages', which takes it away"),
    (["experiment=lab/smoke", "~method"], r"method: found '~method', which takes it away"),
    (["experiment=lab/smoke", "~stages.1"], r"stages\.1: found '~stages\.1'"),
    (["experiment=lab/smoke", "stages=[]"], r"stages: found nothing, needed at least one"),
    (["experiment=lab/smoke", "stages=null"], r"stages: found nothing, needed at least one"),
    (["experiment=lab/smoke", "name=???"], r"name: Missing mandatory value"),
    (["experiment=lab/smoke", "name=${foo}"], r"name: Interpolation key 'foo' not found"),
    # What is no override, or several.
    (["experiment=lab/smoke", "seed"], r"'seed' is no override, needed key=value"),
    (["experiment=lab/smoke", "seed=1,2"], r"seed: found several values in 'seed=1,2', needed one"),
    (["experiment=lab/smoke", "seed=0,1"], r"hint: .*or compare them in a study"),
    (
        ["experiment=lab/smoke", "output=R&D"],
        r"output: found 'R&D', which cannot be read\n\n.*quote",
    ),
    (["--experiment", "lab/smoke"], r"hint: did you mean experiment=lab/smoke\?$"),
    (["--seed=3", "experiment=lab/smoke"], r"hint: did you mean seed=3\?$"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_bad_settings_are_refused_in_words(overrides, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        load(*overrides)
    assert "\n\nhint: " in str(refusal.value)
    assert isinstance(refusal.value, ValueError)


def test_a_misspelt_key_in_a_file_is_refused_with_near_names():
    values = load("experiment=lab/smoke").model_dump()
    values["stages"][1]["stpes"] = 2
    with pytest.raises(ConfigError, match=r"stages\.1\.stpes: no such key") as refusal:
        checked(values)
    assert "did you mean stages.1.steps?" in str(refusal.value)


@pytest.mark.parametrize(
    "override",
    ["seed=2147483647", "data.segmentation.threshold=1", "hardware.memory_share=1"],
)
def test_the_outermost_values_are_taken(override):
    assert isinstance(load("experiment=lab/smoke", override), Experiment)


@pytest.mark.parametrize("page", ["README.md", "docs/transitions.md"])
def test_the_pages_example_of_a_transition_fits_the_lab(page):
    [override] = re.findall(r"`'(stages\.0\.transition=.+?)'`", (ROOT / page).read_text())
    assert load("experiment=lab/fastcurl", override).stages[0].transition.policy == "any"


def test_settings_survive_being_written_and_read():
    experiment = load("experiment=fastcurl")
    assert checked(experiment.model_dump(mode="json")) == experiment


PRINTABLE = st.characters(exclude_categories=["C", "Zl", "Zp"])
TRICKY = st.sampled_from([*"$'\"\\~&#;!,=:[]{}()% /.", "${", "???", "null", "1"])


@settings(max_examples=30)
@given(st.lists(PRINTABLE | TRICKY, min_size=1).map("".join).filter(lambda text: text != "???"))
@example("/data/R&D/it's; ~all, of #1!")
@example("\\\\${oc.env:HOME}\\")
def test_any_folder_can_be_named_in_an_override(name):
    listed = f"data.train.files=[{written(name)},{written(name)}]"
    hub = ["data.train.kind=hub", "data.train.path=owner/name"]
    made = load("experiment=lab/smoke", f"output={written(name)}", *hub, listed)
    assert made.output == os.path.expanduser(name)
    assert made.data.train.files == [name, name]


@pytest.mark.parametrize("override", ["output=~/h2 runs", "output='~/h2 runs'"])
def test_a_folder_of_ones_home_is_meant_by_a_tilde(override, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load("experiment=lab/smoke", override).output == "/home/ada/h2 runs"
    assert load("experiment=lab/smoke", "model.path=~/my").model.path == "~/my"
    values = load("experiment=lab/smoke").model_dump() | {"output": "~/of a file"}
    assert checked(values).output == "/home/ada/of a file"


def test_the_hint_about_quotes_is_itself_taken():
    with pytest.raises(ConfigError) as refused:
        load("experiment=lab/smoke", "output=R&D runs")
    [hint] = re.findall(r'"(output=.*)"$', str(refused.value))
    assert load("experiment=lab/smoke", hint).output == "R&D runs"


def test_the_program_tells_its_usage_and_prints_settings():
    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "conf.load", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("--help").startswith("usage: python -m conf.load experiment=")
    assert said("--help", "stages.0.steps").startswith("stages.N.steps  int, steps, default 100")
    assert "\nname: lab_smoke\n" in "\n" + said("experiment=lab/smoke")


def test_several_threads_may_load_at_once():
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda i: load("experiment=lab/smoke", f"seed={i}"), range(8)))
    assert [experiment.seed for experiment in loaded] == list(range(8))
