"""A stage's last checkpoint, taken out of verl's folders and proved to load.

verl writes tokenizer and config long before the weights, and a cut save leaves a folder that
looks whole. So the weights are copied aside, loaded as anyone would load them, run on a fixed
batch, and only then given the name that says finished.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.backend.settings import last_saved_step
from trainer.checkpoint import has_weights

PROBE = "Let's check this checkpoint: 1 + 1 = 2."


def export(verl_folder: Path, start: Path, target: Path, steps: int) -> dict:
    """Copy the final weights to `target` in Hugging Face format, and load them back.

    Args:
        verl_folder: Where verl keeps the stage's checkpoints.
        start: The checkpoint that the stage started from, for what must not have changed.
        target: Folder to make. It appears whole or not at all.
        steps: Steps that the stage was to make.

    Returns:
        What was checked: parameters, mean log-probability of a fixed text, and whether tokenizer
        and chat template are those of `start`.

    Raises:
        ValueError: fewer steps than asked, no weights, a changed tokenizer or vocabulary, or
            log-probabilities that are not finite.
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
    result = check(aside, start)
    (aside / "handoff.json").write_text(json.dumps(result, indent=2))
    if target.exists():
        shutil.rmtree(target)
    os.replace(aside, target)
    return result


def check(folder: Path, start: Path) -> dict:
    """Load a checkpoint folder and look whether it is the same kind of model as `start`."""
    if not has_weights(folder):
        raise ValueError(f"{folder} holds no weights\n\nhint: is the disk full?")
    tokenizer, before = (AutoTokenizer.from_pretrained(path) for path in (folder, start))
    if tokenizer.get_vocab() != before.get_vocab():
        raise ValueError(f"the tokenizer of {folder} is not that of {start}")
    if tokenizer.chat_template != before.chat_template:
        raise ValueError(f"the chat template of {folder} is not that of {start}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode(PROBE)])
    with torch.inference_mode():
        logprobs = model(ids).logits.log_softmax(-1)
    mean = logprobs[0, :-1].gather(-1, ids[0, 1:, None]).mean().item()
    if not torch.isfinite(logprobs).all():
        raise ValueError(f"{folder} gives log-probabilities that are not finite")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "probe_logprob": mean,
        "tokenizer_unchanged": True,
        "chat_template_unchanged": True,
    }
