import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pytest

from conf.load import ConfigError, load
from conf.overrides import written
from tasks import preflight, preflight_machine, preflight_rows
from tasks.artifacts import Dataset
from tasks.disk import bytes_to_come, checkpoint_bytes, parameters, readable, size
from tasks.model import local_folder
from tasks.plan import plan
from tasks.preflight import check_data, check_settings
from tasks.preflight_machine import check_machine, check_ranks
from tasks.preflight_model import check_model, check_scored_model
from tasks.stages import stage_folders
from tasks.upstream import to_columns
from trainer.backend.settings import settings as verl_settings
from trainer.checkpoint import weight_files
from trainer.lab import BASE
from trainer.lab.task import problems
from trainer.rewards import Grade, Reason


@pytest.fixture
def model(tmp_path):
    """A copy of the lab's model to damage."""
    return shutil.copytree(BASE, tmp_path / "model")


@pytest.fixture
def dataset(tmp_path):
    """A data set by its rows: the lab's where none are given."""
    made = 0

    def write(rows=None, count=16, name="toy"):
        nonlocal made
        made += 1
        rows = problems(count, 0, "train") if rows is None else rows
        table = to_columns(rows or problems(1, 0, "train"), name, "")[: len(rows)]
        return Dataset.write(tmp_path / f"set{made}", name, table)

    return write


def refusal(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.count("\n\nhint: ") == 1
    return message


def test_the_shipped_lab_experiments_pass(smoke, dataset):
    check_settings(smoke())
    check_settings(load("experiment=lab/fastcurl"))
    train = dataset()
    check_data(smoke(), dict.fromkeys(("L1", "L2", "L3"), train), {"lab_test": dataset()}, BASE)


def test_checking_settings_leaves_nothing_behind(smoke, tmp_path):
    check_settings(smoke())
    assert not list(tmp_path.iterdir())


def test_checking_settings_imports_nothing_heavy():
    code = (
        "import sys; from conf.load import load; from tasks.preflight import check_settings;"
        "check_settings(load('experiment=lab/smoke', 'output=/tmp/none'));"
        "print([m for m in ('torch', 'transformers', 'verl', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ACTOR = "actor_rollout_ref.actor"
# (overrides, what the message says)
SETTINGS = [
    # Prompt and response longer than the model's 512 positions.
    (
        ["stages.1.context_length=500"],
        r"stages.1.context_length: found 500 tokens, 548 with data.max_prompt_length=48, "
        "needed at most the 512 positions of the model",
    ),
    (["stages.1.context_length=500"], "hint: set stages.1.context_length=464"),
    (["evaluation.context_length=465"], "evaluation.context_length: found 465 tokens"),
    (["data.max_prompt_length=512"], "hint: set data.max_prompt_length below 512"),
    # A rollout that has none to be compared with.
    (["stages.0.group_size=1"], "stages.0.group_size: found 1 rollout, needed 2 or more"),
    (["method=rloo", "stages.1.group_size=1"], "for the advantage 'rloo'"),
    # Ranks that do not divide the work.
    (["hardware.ranks=5"], "stages.0: found 32 rollouts per update"),
    (["hardware.ranks=64"], "needed a multiple of the 64 ranks"),
    (
        ["selection=speed_as_published", "selection.speed.screening=2", "hardware.ranks=32"],
        "(mini_batch_size x the 2 of a prompt that count), needed a multiple of the 32 ranks",
    ),
    (
        ["hardware.tensor_parallel=2", "hardware.ranks=2"],
        "hardware.tensor_parallel: found 2 ranks per engine, needed 1 with hardware.rollout=torch",
    ),
    (
        ["hardware=gpu1", "hardware.tensor_parallel=2"],
        "hardware.tensor_parallel: found 2 ranks per engine, needed a divisor of the 1 ranks",
    ),
    # An engine that spans two machines: a checkpoint is scored on one.
    (
        [
            "hardware=gpu8",
            "hardware.ranks=4",
            "hardware.nodes=2",
            "hardware.ray_address=node1:6379",
            "hardware.tensor_parallel=8",
        ],
        "hardware.tensor_parallel: found 8 ranks per engine, needed a divisor of the 4 ranks of a "
        "machine",
    ),
    # The lab's model has 4 heads, which vLLM deals out evenly or not at all.
    (
        ["hardware=gpu8", "hardware.tensor_parallel=8"],
        "hardware.tensor_parallel: found 8 ranks per engine, needed ones that share the model's "
        "4 attention heads and 4 of keys evenly\n\nhint: set hardware.tensor_parallel=4",
    ),
    # Kernels without float32, and an engine that would sample on the processor.
    (
        ["hardware=gpu8", "hardware.dtype=float32"],
        "hardware.attention: found 'flash_attention_2' with hardware.dtype=float32, needed",
    ),
    (
        ["hardware=gpu1", "hardware.rollout=torch", "hardware.seeded=true"],
        "hardware.rollout: found 'torch' with hardware.device=cuda, needed 'vllm'",
    ),
    # vLLM's probabilities of a nucleus are not the trainer's.
    (
        ["hardware=cpu_vllm", "stages.1.top_p=0.95"],
        "stages.1.top_p: found 0.95, needed 1 with hardware.rollout=vllm and "
        "hardware.dtype=float32",
    ),
    # Files and folders that are not there.
    (["data.train.kind=file", "data.train.path=none.parquet"], "no file none.parquet"),
    (["data.train.kind=file"], "lab_train: found no path, needed a file"),
    (["evaluation.benchmarks.0.kind=file", "evaluation.benchmarks.0.path=x.csv"], "no file x.csv"),
    (["model.path=./none"], "model.path: found no folder './none', needed 'lab', a local folder"),
    (["model.path=none"], "hint: a Hub name is owner/name"),
    (["model.path='~nobody-here/x'"], "model.path: found no folder '~nobody-here/x'"),
]


@pytest.mark.parametrize(("overrides", "message"), SETTINGS)
def test_settings_that_cannot_work_are_refused_and_a_plan_says_so(smoke, overrides, message):
    assert message in refusal(check_settings, smoke(*overrides))
    planned = plan(smoke(*overrides))
    assert message in planned.refused and not planned.stages[0].settings


@pytest.mark.parametrize("selection", ["uniform", "speed", "speed_as_published"])
@pytest.mark.parametrize("mini_batch", [1, 2, 4])
def test_what_ranks_are_admitted_verl_can_share_among(smoke, selection, mini_batch):
    """It wants whole rollouts for each rank, and equal passes of them."""
    sizes = [f"stages.{stage}.mini_batch_size={mini_batch}" for stage in (0, 1)]
    screening = ["selection.speed.screening=2"] if selection != "uniform" else []
    chosen = smoke(f"selection={selection}", *screening, *sizes)
    paths = {name: Path(name) for name in ("start", "prompts", "folder")}
    admitted = []
    for ranks in range(1, 40):
        hardware = chosen.hardware.model_copy(update={"ranks": ranks})
        settings = chosen.model_copy(update={"hardware": hardware})
        with suppress(ConfigError):
            check_ranks(settings)
            values = verl_settings(settings, 0, **paths)
            mini = mini_batch * values["actor_rollout_ref.rollout.n"]
            share, rest = divmod(mini, ranks)
            assert not rest and not share % values[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]
            admitted.append(ranks)
    assert admitted == [ranks for ranks in range(1, 40) if not mini % ranks]


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one that has the packages and the GPU named, and no others."""
    modelled = ("vllm", "flash_attn")

    def of(*has):
        def found(name):
            assert name in modelled
            return name if name in has else None

        gpus = sum(8 if name == "8 gpus" else name == "gpu" for name in has)
        monkeypatch.setattr(preflight_machine, "find_spec", found)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        monkeypatch.setattr(preflight_machine, "_check_compiler", lambda: None)

    return of


# (overlay, what the machine has, what the message says)
MACHINES = [
    ("cpu_vllm", (), "hardware.rollout: found 'vllm', but vLLM is not installed here"),
    ("cpu_vllm", (), "hint: make test-vllm installs it for a CPU, make gpu on a GPU node"),
    ("gpu1", ("gpu",), "hardware.rollout: found 'vllm'"),
    ("gpu1", ("vllm",), "hardware.device: found 'cuda', but no NVIDIA GPU on this machine"),
    ("gpu8", ("vllm", "gpu"), "hardware.ranks: found 8, needed at most 1, the GPUs that this"),
    ("gpu8", ("vllm", "8 gpus"), "hardware.attention: found 'flash_attention_2', but flash-attn"),
    ("gpu8", ("vllm", "8 gpus"), "hint: set hardware.attention=sdpa, or build it on the node: pip"),
]


@pytest.mark.parametrize(("overlay", "has", "message"), MACHINES)
def test_a_machine_that_lacks_what_the_settings_need_is_refused(
    smoke, machine, overlay, has, message
):
    machine(*has)
    assert message in refusal(check_machine, smoke(f"hardware={overlay}").hardware)


@pytest.mark.parametrize(
    ("overlay", "has"),
    [
        ("cpu", ()),
        ("cpu_vllm", ("vllm",)),
        ("gpu1", ("vllm", "gpu")),
        ("gpu8", ("vllm", "8 gpus", "flash_attn")),
    ],
)
def test_a_machine_that_has_it_is_enough(smoke, machine, overlay, has):
    machine(*has)
    check_machine(smoke(f"hardware={overlay}").hardware)
    if overlay == "gpu8":
        machine("vllm", "8 gpus")
        check_machine(smoke(f"hardware={overlay}", "hardware.attention=sdpa").hardware)
        check_machine(smoke(f"hardware={overlay}").hardware, trains=False)  # vLLM has its own


@pytest.mark.parametrize("overlay", ["cpu", "cpu_vllm", "gpu1", "gpu8"])
def test_settings_are_as_good_on_a_machine_that_cannot_train_them(smoke, machine, overlay):
    machine()
    check_settings(smoke(f"hardware={overlay}"))
    settings = f"hardware={overlay}", "hardware.dtype=bfloat16", "stages.0.top_p=0.95"
    check_settings(smoke(*settings))  # probabilities are compared in float32 only


def test_a_cluster_needs_to_answer_only_where_something_is_trained(smoke):
    named = smoke("hardware.ray_address=127.0.0.1:9")
    check_settings(named)
    assert "nothing answers at 127.0.0.1:9" in refusal(check_machine, named.hardware)
    check_machine(named.hardware, trains=False)  # samplers need no Ray


@pytest.mark.parametrize(
    ("visible", "devices", "tool", "most"),
    [
        (None, ["nvidia0"], None, 1),
        (None, ["nvidia0", "nvidia1"], None, 2),
        ("1", ["nvidia0", "nvidia1"], None, 1),
        ("GPU-6a,GPU-6b", [], None, 2),
        (None, [], "/bin/nvidia-smi", 64),  # its devices have other names: who knows
        (None, [], None, 0),
        ("", ["nvidia0"], "/bin/nvidia-smi", 0),
        ("-1", ["nvidia0"], "/bin/nvidia-smi", 0),
    ],
)
def test_gpus_show_as_devices_by_a_variable_or_by_their_tool(
    smoke, monkeypatch, visible, devices, tool, most
):
    monkeypatch.setattr(preflight_machine, "find_spec", lambda name: name)
    monkeypatch.setattr(preflight_machine, "_check_compiler", lambda: None)
    monkeypatch.setattr(preflight_machine.Path, "glob", lambda *_: iter(devices))
    monkeypatch.setattr(shutil, "which", lambda name: tool)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for ranks in (1, 2, 3, 64):
        hardware = smoke("hardware=gpu1").hardware.model_copy(update={"ranks": ranks})
        if ranks <= most:
            check_machine(hardware)
        else:
            said = refusal(check_machine, hardware)
            wanted = (
                f"hardware.ranks: found {ranks}, needed at most {most}," if most else "no NVIDIA"
            )
            assert wanted in said


@pytest.mark.parametrize(
    ("compilers", "chosen", "header", "lacks"),
    [
        (["gcc"], None, True, ""),
        (["clang"], None, True, ""),
        (["gcc", "my-cc"], "my-cc", True, ""),
        ([], None, True, "no C compiler (gcc, clang)"),
        (["gcc"], "my-cc", True, "no C compiler (my-cc)"),
        (["gcc"], None, False, "Python.h"),
    ],
)
def test_vllm_on_a_gpu_needs_a_c_compiler_and_pythons_header(
    monkeypatch, smoke, tmp_path, compilers, chosen, header, lacks
):
    monkeypatch.setattr(preflight_machine, "find_spec", lambda name: name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(shutil, "which", lambda name: name if name in compilers else None)
    include = lambda: {"include": str(tmp_path)}  # noqa: E731
    monkeypatch.setattr(preflight_machine.sysconfig, "get_paths", include)
    if header:
        (tmp_path / "Python.h").touch()
    if chosen:
        monkeypatch.setenv("CC", chosen)
    else:
        monkeypatch.delenv("CC", raising=False)
    hardware = smoke("hardware=gpu1").hardware
    if lacks:
        assert lacks in refusal(check_machine, hardware)
    else:
        check_machine(hardware)


def test_a_model_in_the_home_folder_is_found_by_all(smoke, model, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    experiment = smoke("model.path='~/model'")
    check_settings(experiment)
    assert local_folder(experiment.model) == model
    (model / "model.safetensors").unlink()
    assert "found no weights" in refusal(check_settings, experiment)


def test_a_model_on_the_hub_is_not_looked_for_yet(smoke):
    check_settings(smoke("model.path=owner/name"))


def test_positions_that_just_suffice_are_enough(smoke):
    check_settings(smoke("stages.1.context_length=464"))


def test_an_output_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    experiment = load("experiment=lab/smoke", f"output={tmp_path / 'file' / 'out'}")
    message = refusal(check_settings, experiment)
    assert f"output: cannot write in {tmp_path / 'file'} (Not a directory)" in message


@pytest.mark.parametrize(
    ("name", "needed"),
    [("why?", "without a question mark"), ("50%20off", "without %20"), ("a%Afb", "without %Af")],
)
def test_an_output_folder_that_mlflow_could_not_find_is_refused(tmp_path, name, needed):
    experiment = load("experiment=lab/smoke", f"output={written(f'{tmp_path}/{name}/out')}")
    message = refusal(check_settings, experiment)
    assert f"output: found {tmp_path}/{name}/out, needed a folder {needed}" in message


def test_an_output_folder_may_have_a_per_cent_sign_in_its_name(tmp_path):
    output = f"{tmp_path}/100% of 5%g/out"
    check_settings(load("experiment=lab/smoke", f"output={written(output)}"))
    assert unquote(output) == output  # what MLflow opens


def test_a_read_only_output_folder_is_refused():
    message = refusal(check_settings, load("experiment=lab/smoke", "output=/proc/stagecraft"))
    assert "output: cannot write in /proc" in message


def test_less_disk_than_the_checkpoints_need_is_refused(smoke, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    message = refusal(check_settings, smoke())
    needed = readable(bytes_to_come(smoke(), parameters(BASE)))
    assert f"found 1.0 MiB free in {smoke().output.removesuffix('/out')}" in message
    assert f"needed {needed} for the checkpoints of 2 stages" in message


def test_what_is_finished_is_read_on_a_full_disk(smoke, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    check_settings(smoke(), trains=False)
    check_model(smoke(), BASE, trains=False)
    assert "needed" in refusal(check_model, smoke(), BASE)


def test_a_stage_needs_its_export_and_two_trainer_states(smoke):
    stage = smoke("stages.0.steps=100", "stages.0.save_every=10").stages[0]
    # One million parameters: 4 MB exported; per state 4 MB more, and 12 MB of Adam.
    assert checkpoint_bytes(stage, 10**6) == 4_000_000 + 2 * 16_000_000
    once = smoke("stages.0.steps=10", "stages.0.save_every=10").stages[0]
    assert checkpoint_bytes(once, 10**6) == 4_000_000 + 16_000_000


def test_checkpoints_are_float32_whatever_is_computed_in(smoke):
    low, full = smoke("hardware.dtype=bfloat16"), smoke()
    assert bytes_to_come(low, 10**6) == bytes_to_come(full, 10**6)


def test_what_an_earlier_run_of_these_stages_left_is_not_asked_for_again(smoke, train):
    experiment = smoke()
    first, second = (checkpoint_bytes(stage, 10**6) for stage in experiment.stages)
    assert bytes_to_come(experiment, 10**6, BASE) == first + second
    results = train(experiment, stages=1)
    assert bytes_to_come(experiment, 10**6, BASE) == second  # the first is finished
    assert bytes_to_come(experiment, 10**6) == first + second
    with pytest.raises(RuntimeError):
        train(experiment, stop=(1, 1, RuntimeError("stopped")))
    (begun,) = set(stage_folders(Path(experiment.output))) - {Path(results[0]["folder"])}
    held = size(begun)
    # What was saved stays until more is, and what a stop saved may stay longer: a state more.
    (begun / "verl" / "weights").write_bytes(bytes(1000))
    assert bytes_to_come(experiment, 10**6, BASE) == second + 16_000_000 - held - 1000
    with (begun / "verl" / "weights").open("wb") as file:
        file.truncate(10**9)
    assert bytes_to_come(experiment, 10**6, BASE) == 16_000_000
    for saved in (begun / "verl").glob("global_step_*"):
        shutil.rmtree(saved)
    assert bytes_to_come(experiment, 10**6, BASE) == second


@pytest.mark.parametrize(
    "change",
    ["seed=1", "method=rloo", "data.train.rows=65", "stages.0.steps=3", "model.path=other"],
)
def test_what_other_stages_left_takes_nothing_off(smoke, train, model, change):
    train(smoke())
    if change == "model.path=other":
        change = f"model.path={model}"
        (model / "README.md").write_text("another model")
    start = model if "model" in change else BASE
    experiment = smoke(change)
    assert bytes_to_come(experiment, 10**6, start) == bytes_to_come(experiment, 10**6)


def test_a_disk_just_large_enough_for_what_is_left_is_enough(smoke, train, monkeypatch):
    train(smoke(), stages=1)
    free = checkpoint_bytes(smoke().stages[1], parameters(BASE))
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    check_settings(smoke())
    assert "needed" in refusal(check_settings, smoke("seed=1"))


def test_parameters_are_counted_in_the_weights_themselves(model):
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as file:
        expected = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert parameters(model) == expected


def test_a_stage_s_folder_stands_for_the_checkpoint_in_it(smoke, model, tmp_path):
    stage = tmp_path / "1-L1-64-0123456789ab"
    shutil.copytree(model, stage / "checkpoint")
    experiment = smoke(f"model.path={stage}")
    check_settings(experiment)
    assert local_folder(experiment.model) == stage / "checkpoint"


def test_a_checkpoint_without_weights_is_refused(smoke, model):
    (model / "model.safetensors").unlink()
    message = refusal(check_settings, smoke(f"model.path={model}"))
    assert f"model.path: found no weights in {model}, needed *.safetensors or" in message
    (model / "model.safetensors").write_bytes(b"")  # a save that was cut
    assert "found no weights" in refusal(check_model, smoke(), model)


def test_a_checkpoint_that_lacks_a_shard_is_refused(smoke, model):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    assert weight_files(model)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "all shards of them" in refusal(check_model, smoke(), model)


def test_a_folder_that_is_no_checkpoint_is_refused(smoke, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refusal(check_model, smoke(), tmp_path / "empty")
    assert "found no config.json" in message


def sets(train, **parts):
    return {"L1": train, "L2": train, "L3": train, **parts}


def test_a_model_that_is_only_scored_needs_positions_for_the_prompts_there_are(smoke, dataset):
    rows = problems(12, 0, "train")
    rows[3]["prompt"][0]["content"] = "1" * 100  # a lab token is a character
    longest = 100 + 10  # of the chat template
    fits, over = (smoke(f"evaluation.context_length={512 - longest + more}") for more in (0, 1))
    check_scored_model(fits, [dataset(), dataset(rows)], BASE)
    message = refusal(check_scored_model, over, [dataset(), dataset(rows, name="long")], BASE)
    assert f"with the {longest} of the longest prompt of long that is 513, needed" in message
    assert f"hint: set evaluation.context_length={512 - longest}" in message
    few = smoke("evaluation.context_length=512", "data.max_prompt_length=1")
    assert "prompt of toy that is" in refusal(check_scored_model, few, [dataset()], BASE)


def test_an_empty_prompt_set_that_a_stage_trains_on_is_refused(smoke, dataset):
    segments = sets(dataset(), L1=dataset(rows=[]))
    message = refusal(check_data, smoke(), segments, {"t": dataset()}, BASE)
    assert "stages.0.prompts: found no prompt in L1, needed at least the 8 of a batch" in message
    # No stage of the smoke experiment trains on L3.
    check_data(smoke(), sets(dataset(), L3=dataset(rows=[])), {"t": dataset()}, BASE)


def test_a_prompt_set_smaller_than_a_batch_is_refused(smoke, dataset):
    segments = sets(dataset(), L1=dataset(count=7))
    message = refusal(check_data, smoke(), segments, {"t": dataset()}, BASE)
    assert "stages.0.batch_size: found 8 prompts per step, but L1 holds only 7" in message


def test_an_empty_benchmark_is_refused(smoke, dataset):
    message = refusal(check_data, smoke(), sets(dataset()), {"t": dataset([], name="aime")}, BASE)
    assert "aime: found no rows" in message


def test_a_truth_that_cannot_be_parsed_is_refused_unless_kept(smoke, dataset):
    rows = problems(12, 0, "train")
    rows[3]["reward_model"]["ground_truth"] = "\\frac{1}{2"
    rows[5]["reward_model"]["ground_truth"] = ""
    train, test = dataset(rows), {"t": dataset()}
    message = refusal(check_data, smoke(), sets(train), test, BASE)
    assert "toy: found 2 problems whose truth cannot be parsed (first: toy-3 ['" in message
    check_data(smoke("data.unanswerable=keep"), sets(train), test, BASE)


def test_prompts_longer_than_allowed_are_refused_with_their_number(smoke, dataset):
    rows = problems(12, 0, "train")
    for row in rows[:2]:
        row["prompt"][0]["content"] = "long " * 40 + row["prompt"][0]["content"]
    message = refusal(check_data, smoke(), sets(dataset(rows)), {"t": dataset()}, BASE)
    assert "data.max_prompt_length: found 48 tokens, but 2 prompts of toy are longer" in message
    # The hint is enough, and no more than needed.
    longest = int(message.partition("hint: set data.max_prompt_length=")[2].partition(",")[0])
    segments, test = sets(dataset(rows)), {"t": dataset()}
    wide = "stages.1.context_length=64", "evaluation.context_length=64"
    check_data(smoke(f"data.max_prompt_length={longest}", *wide), segments, test, BASE)
    tight = smoke(f"data.max_prompt_length={longest - 1}", *wide)
    assert f"found {longest - 1} tokens" in refusal(check_data, tight, segments, test, BASE)


def test_a_tokenizer_without_chat_template_is_refused(smoke, dataset, model):
    (model / "chat_template.jinja").unlink()
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    message = refusal(check_data, smoke(), sets(dataset()), {"t": dataset()}, model)
    assert "found a tokenizer without chat template" in message


def test_a_checkpoint_without_tokenizer_is_refused(smoke, dataset, model):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    message = refusal(check_data, smoke(), sets(dataset()), {"t": dataset()}, model)
    assert "found a tokenizer without vocabulary" in message
    (model / "tokenizer_config.json").write_text("{")
    message = refusal(check_data, smoke(), sets(dataset()), {"t": dataset()}, model)
    assert "found no tokenizer that loads" in message


def test_a_grader_that_cannot_compare_is_noticed_where_it_is_needed(smoke, dataset, monkeypatch):
    monkeypatch.setattr(preflight, "grade", lambda *_: Grade(False, Reason.TIMEOUT, "x"))
    check_data(smoke(), sets(dataset()), {"t": dataset()}, BASE)  # integers need no parser
    rows = problems(12, 0, "test")
    rows[0]["reward_model"]["ground_truth"] = "\\sqrt{2}"
    message = refusal(check_data, smoke(), sets(dataset()), {"t": dataset(rows)}, BASE)
    assert "the grader returned 'timed out' for an answer known to be right" in message


def test_the_grader_of_this_machine_compares_expressions():
    preflight.check_grader()


def test_prompts_without_a_level_are_refused_where_levels_are_gone_by(smoke, dataset, model):
    rows = problems(16, 0, "train")
    for row in rows[:3]:
        del row["extra_info"]["level"]
    sets = dict.fromkeys(("L1", "L2", "L3"), dataset(rows))
    said = refusal(check_data, smoke("selection=e2h"), sets, {}, model)
    assert "3 of the 16 prompts of L1 have no level" in said
    check_data(smoke("selection=uniform"), sets, {}, model)


def test_rows_are_looked_at_once_for_each_set_tokenizer_and_limit(
    smoke, dataset, model, monkeypatch
):
    train, test = dataset(), dataset(name="test")
    sets = dict.fromkeys(("L1", "L2", "L3"), train)
    looked = []
    one = preflight_rows._check_rows

    def look(experiment, dataset, tokenizer):
        looked.append(dataset.name)
        return one(experiment, dataset, tokenizer)

    monkeypatch.setattr(preflight_rows, "_check_rows", look)
    for settings, folder, expected in (
        (smoke(), model, ["toy", "test"]),
        (smoke("seed=3"), model, []),
        (smoke("data.max_prompt_length=47"), model, ["toy", "test"]),
        (smoke(), model, []),
    ):
        looked.clear()
        check_data(settings, sets, {"t": test}, folder)
        assert looked == expected
    (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text() + " ")
    looked.clear()
    check_data(smoke(), sets, {"t": test}, model)
    assert looked == ["toy", "test"]


def test_rows_that_were_refused_are_refused_again(smoke, dataset):
    rows = problems(12, 0, "train")
    rows[5]["reward_model"]["ground_truth"] = ""
    train = dataset(rows)
    sets = dict.fromkeys(("L1", "L2", "L3"), train)
    for _ in range(2):
        assert "cannot be parsed" in refusal(check_data, smoke(), sets, {"t": dataset()}, BASE)


def test_a_damaged_note_of_what_was_looked_at_is_not_believed(smoke, dataset):
    train = dataset()
    (train.folder / preflight_rows.NOTE).write_text('{"half')
    check_data(smoke(), dict.fromkeys(("L1", "L2", "L3"), train), {"t": dataset()}, BASE)
    assert len(json.loads((train.folder / preflight_rows.NOTE).read_text())) == 1
