"""A model folder in Hugging Face format: what it must hold, and which tokens end its responses."""

import json
from pathlib import Path

from transformers import AutoTokenizer


def has_weights(folder: Path) -> bool:
    """Whether the folder holds weights, whole or in shards; a config alone is no checkpoint."""
    return any(
        path.stat().st_size > 0
        for pattern in ("*.safetensors", "pytorch_model*.bin")
        for path in folder.glob(pattern)
    )


def eos_ids(folder: Path) -> set[int]:
    """Token ids that end a response: the tokenizer's, and those of `generation_config.json`.

    vLLM stops at both, so every engine here does.
    """
    ids = {AutoTokenizer.from_pretrained(folder).eos_token_id}
    generation = folder / "generation_config.json"
    if generation.exists():
        more = json.loads(generation.read_text()).get("eos_token_id")
        ids |= set(more) if isinstance(more, list) else {more}
    return {token for token in ids if token is not None}
