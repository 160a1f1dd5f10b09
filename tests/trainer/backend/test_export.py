"""Out of verl's folders: whole, loaded back, and refused where something is missing."""

import json
import os
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.backend.export import check, export
from trainer.backend.resume import last_saved_step
from trainer.checkpoint import eos_ids, has_weights
from trainer.lab import BASE


@pytest.fixture(scope="module")
def probe() -> dict:
    """What the trainer keeps: rollouts, and the log-probabilities of the base's weights."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    rollouts = []
    for prompt, response in (([5, 9, 17], [40, 3]), ([8, 8], [60, 61, 62, 2])):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.5
        logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]
        rollouts.append({"prompt": prompt, "response": response, "logprobs": logprobs.tolist()})
    return {"temperature": 0.5, "rollouts": rollouts}


@pytest.fixture
def verl_folder(tmp_path, probe):
    """What verl leaves after step 3: tokenizer, config and weights, and then the tracker file."""
    (tmp_path / "probe.json").write_text(json.dumps(probe))
    folder = tmp_path / "verl"
    shutil.copytree(BASE, folder / "global_step_3" / "actor" / "huggingface")
    (folder / "latest_checkpointed_iteration.txt").write_text("3")
    return folder


def test_a_whole_checkpoint_is_exported_and_described(verl_folder, tmp_path):
    target = tmp_path / "checkpoint"
    result = export(verl_folder, BASE, target, steps=3, dtype="float32")
    assert has_weights(target) and (target / "handoff.json").exists()
    assert result["parameters"] > 100_000
    assert result["logprob_difference"] < 1e-4
    assert result["logprob_tokens"] == 6


def test_fewer_steps_than_asked_are_an_error(verl_folder, tmp_path):
    with pytest.raises(ValueError, match=r"to make 5 steps.*of step 3"):
        export(verl_folder, BASE, tmp_path / "checkpoint", steps=5, dtype="float32")
    assert not (tmp_path / "checkpoint").exists()


def test_a_folder_without_weights_is_never_a_checkpoint(verl_folder, tmp_path):
    (verl_folder / "global_step_3" / "actor" / "huggingface" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights"):
        export(verl_folder, BASE, tmp_path / "checkpoint", steps=3, dtype="float32")
    assert not (tmp_path / "checkpoint").exists()


def test_truncated_weights_do_not_load(verl_folder, tmp_path):
    weights = verl_folder / "global_step_3" / "actor" / "huggingface" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(Exception, match=r"(?i)safetensor|header|incomplete|invalid"):
        export(verl_folder, BASE, tmp_path / "checkpoint", steps=3, dtype="float32")
    assert not (tmp_path / "checkpoint").exists()


def test_an_export_replaces_what_an_earlier_one_left(verl_folder, tmp_path):
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "old").write_text("")
    export(verl_folder, BASE, target, steps=3, dtype="float32")
    assert not (target / "old").exists() and has_weights(target)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_it_where_they_may_read_what_is_written_there(
    verl_folder, tmp_path, umask, mode
):
    saved = verl_folder / "global_step_3" / "actor" / "huggingface"
    (saved / "model.safetensors").chmod(0o600)  # as safetensors writes it
    (saved / "deeper").mkdir()
    (saved / "deeper" / "notes.txt").write_text("")
    before = os.umask(umask)
    try:
        export(verl_folder, BASE, tmp_path / "checkpoint", steps=3, dtype="float32")
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in made} == {mode}
    assert "notes.txt" in [path.name for path in made]


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_weights_that_are_not_what_was_trained_are_refused(verl_folder, tmp_path, probe, wrong):
    first, *rest = probe["rollouts"]
    changed = {**first, "logprobs": [first["logprobs"][0] + wrong, *first["logprobs"][1:]]}
    other = {**probe, "rollouts": [changed, *rest]}
    (tmp_path / "probe.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="differ from the trainer's"):
        export(verl_folder, BASE, tmp_path / "checkpoint", steps=3, dtype="float32")
    assert not (tmp_path / "checkpoint").exists()


def test_a_changed_chat_template_is_refused(verl_folder, tmp_path, probe):
    folder = verl_folder / "global_step_3" / "actor" / "huggingface"
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "!")
    with pytest.raises(ValueError, match="chat template"):
        check(folder, BASE, probe, "float32")


def test_nothing_saved_is_step_0(tmp_path):
    assert last_saved_step(tmp_path) == 0


def test_responses_end_where_the_tokenizer_and_the_generation_config_say(tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base")
    end, padding = AutoTokenizer.from_pretrained(BASE).convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )
    assert eos_ids(BASE) == {end}
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [padding]}))
    assert eos_ids(base) == {end, padding}
    (base / "generation_config.json").unlink()
    assert eos_ids(base) == {end}
    # vLLM and transformers read the model's own then.
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": padding}))
    assert eos_ids(base) == {end, padding}
