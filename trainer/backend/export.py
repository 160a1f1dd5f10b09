"""A stage's last checkpoint, taken out of verl's folders and proved to load.

verl writes tokenizer and config long before the weights, and a cut save leaves a folder that
looks whole. So the weights are copied aside, loaded as anyone would load them, asked for the
log-probabilities that the trainer gave last, and only then given the name that says finished.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.backend.resume import last_saved_step
from trainer.checkpoint import has_weights
from trainer.synced import sync_tree

# Of log-probabilities. float32 differs by rounding alone, so its largest difference is judged;
# bfloat16 kernels of two devices differ by much on rare tokens, so there it is the mean.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}


def export(verl_folder: Path, start: Path, target: Path, steps: int, dtype: str) -> dict:
    """Copy the final weights to `target` in Hugging Face format, and load them back.

    Args:
        verl_folder: Where verl keeps the stage's checkpoints; `probe.json` stands beside it.
        start: The checkpoint that the stage started from, for what must not have changed.
        target: Folder to make. It appears whole or not at all.
        steps: Steps that the stage was to make.
        dtype: Type that the trainer computed in, "float32" or "bfloat16".

    Returns:
        What was checked, as `check` gives it.

    Raises:
        ValueError: fewer steps than asked, no weights, a changed tokenizer or chat template, or
            log-probabilities that are not the trainer's.
    """
    made = last_saved_step(verl_folder)
    if made != steps:
        raise ValueError(
            f"the stage was to make {steps} steps, its last whole checkpoint is of step {made}\n\n"
            "hint: run it again, it resumes from there"
        )
    source = verl_folder / f"global_step_{made}" / "actor" / "huggingface"
    aside = target.with_name(target.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    probe = json.loads((verl_folder.parent / "probe.json").read_text())
    result = check(aside, start, probe, dtype)
    (aside / "handoff.json").write_text(json.dumps(result, indent=2))
    _readable(aside)
    sync_tree(aside)  # the stage counts as finished by it, and its states may then be deleted
    if target.exists():
        shutil.rmtree(target)
    os.replace(aside, target)
    return result


def _readable(folder: Path) -> None:
    """Let others read what they may: safetensors makes its files for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):  # a tokenizer may keep its templates in a folder
        if path.is_file():
            path.chmod(0o666 & ~umask)


def check(folder: Path, start: Path, probe: dict, dtype: str) -> dict:
    """Load a checkpoint folder, and compare it with the trainer and with the start.

    Args:
        folder: The checkpoint.
        start: What the stage started from.
        probe: Rollouts with the trainer's final log-probabilities, and their temperature.
        dtype: Type that the trainer computed in; decides the tolerance.

    Returns:
        Parameters, the largest and mean difference of log-probabilities beside the tolerance, over
        how many tokens, and whether tokenizer and chat template are those of `start`.

    Raises:
        ValueError: one of them is not as it must be.
    """
    if not has_weights(folder):
        raise ValueError(f"{folder} holds no weights\n\nhint: is the disk full?")
    tokenizer, before = (AutoTokenizer.from_pretrained(path) for path in (folder, start))
    if tokenizer.get_vocab() != before.get_vocab():
        raise ValueError(f"the tokenizer of {folder} is not that of {start}")
    if tokenizer.chat_template != before.chat_template:
        raise ValueError(f"the chat template of {folder} is not that of {start}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    gaps = differences(model, probe)
    largest, mean = gaps.max().item(), gaps.mean().item()
    if not (largest if dtype == "float32" else mean) <= TOLERANCE[dtype]:  # NaN is refused too
        raise ValueError(
            f"log-probabilities of {folder} differ from the trainer's by up to {largest:.3g}, "
            f"{mean:.3g} in the mean, where {TOLERANCE[dtype]:.3g} is allowed in {dtype}\n\n"
            "hint: the export is not what was trained; move the stage's folder away, train it again"
        )
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "logprob_difference": largest,
        "logprob_difference_mean": mean,
        "logprob_tolerance": TOLERANCE[dtype],
        "logprob_tokens": len(gaps),
        "tokenizer_unchanged": True,
        "chat_template_unchanged": True,
    }


@torch.inference_mode()
def differences(model, probe: dict) -> torch.Tensor:
    """[T] |log p_model - log p_trainer| of the probe's response tokens."""
    gaps = []
    for rollout in probe["rollouts"]:
        prompt, response = rollout["prompt"], rollout["response"]
        ids = torch.tensor([prompt + response])
        # One more than the response: the last position predicts what comes after it.
        logits = model(ids, logits_to_keep=len(response) + 1).logits[0, :-1].float()
        logprobs = (logits / probe["temperature"]).log_softmax(-1)
        found = logprobs.gather(-1, torch.tensor(response)[:, None])[:, 0]
        gaps.append((found - torch.tensor(rollout["logprobs"])).abs())
    return torch.cat(gaps)
