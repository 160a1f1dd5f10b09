"""A model folder in Hugging Face format: what it must hold, how its prompts and responses end."""

import json
from pathlib import Path
from typing import Any

from trainer.grading.extract import OPEN
from trainer.lean import lean_transformers


def weight_files(folder: Path) -> list[Path]:
    """The weights of a checkpoint folder, whole or in shards; empty where one is missing.

    A `config.json` alone is no checkpoint, and neither is an index whose shards are not all there.
    """
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = sorted(path for path in folder.glob(pattern) if path.stat().st_size)
        if files:
            return files if _shards(folder) <= {path.name for path in files} else []
    return []


def _shards(folder: Path) -> set[str]:
    names: set[str] = set()
    for index in folder.glob("*.index.json"):
        names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return names


def has_weights(folder: Path) -> bool:
    """Whether the folder holds all weights; a config alone is no checkpoint."""
    return bool(weight_files(folder))


def _tokenizer(folder: Path) -> Any:
    lean_transformers()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def eos_ids(folder: Path) -> set[int]:
    """Token ids that end a response: the tokenizer's, and those of `generation_config.json`.

    Of `config.json` where there is no such file. vLLM stops at both, so every engine here does.
    """
    ids = {_tokenizer(folder).eos_token_id}
    generation = folder / "generation_config.json"
    told = generation if generation.exists() else folder / "config.json"
    more = json.loads(told.read_text(encoding="utf-8")).get("eos_token_id")
    ids |= set(more) if isinstance(more, list) else {more}
    return {token for token in ids if token is not None}


def opens_thought(folder: Path) -> bool:
    """Whether its chat template ends a prompt with the opening think tag, so no response has it."""
    chat = [{"role": "user", "content": "1 + 1"}]
    prompt = _tokenizer(folder).apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    return prompt.rstrip().endswith(OPEN)
