"""Models to measure with: the lab's with more positions, and Qwen2 shapes of random weights."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from trainer.lab import BASE

SHAPES = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2_000},
}  # fmt: skip
"""Of Qwen2-0.5B and Qwen2-1.5B as published; `tiny` is for trying the benchmark."""


def lab_model(folder: Path, positions: int) -> Path:
    """The lab's base model with so many positions: rotary ones need no weights."""
    shutil.copytree(BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = positions
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_model(name: str, folder: Path, positions: int, dtype: str) -> Path:
    """A model of a published shape, and a tokenizer of just as many tokens.

    The tokenizer is the lab's with tokens added that no text becomes: engine and trainer would
    disagree on a vocabulary that the tokenizer does not fill.
    """
    shape = SHAPES[name]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens([f"filler{i:06}" for i in range(shape["vocab_size"] - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        **shape,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder
