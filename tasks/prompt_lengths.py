"""Tokens of prompts and questions, by a model's own tokenizer and chat template."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts import digest_of, file_digest
from trainer.lean import lean_transformers

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files of a model folder that decide how many tokens a text has."""


def tokenizer_digest(folder: Path) -> str:
    """The digest of all that decides how a model folder's tokenizer counts."""
    files = [folder / name for name in FILES if (folder / name).is_file()]
    return digest_of([[file.name, file_digest(file)] for file in files])


def load_tokenizers() -> None:
    """Import what reads tokenizers: seconds, which a flow may spend while its server starts."""
    lean_transformers()
    from transformers import AutoTokenizer  # noqa: F401


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        ValueError: it does not load, knows no words, or has no chat template.
    """
    load_tokenizers()
    from transformers import AutoTokenizer

    hint = "copy the tokenizer's files of the model it was made from there"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: found no tokenizer that loads in {folder} ({error})\n\nhint: {hint}"
        ) from error
    # Without its files, transformers makes an empty one from config.json, and says nothing.
    if not tokenizer("1 + 1")["input_ids"]:
        raise ValueError(
            f"model.path: found a tokenizer without vocabulary in {folder}\n\nhint: {hint}"
        )
    if not tokenizer.chat_template:
        raise ValueError(
            f"model.path: found a tokenizer without chat template in {folder}, needed one to "
            "write prompts with\n\nhint: add chat_template.jinja of the model it was made from"
        )
    return tokenizer


def counter(tokenizer: Any, limit: int) -> Callable[[Mapping], int]:
    """A function from a row to its tokens; 0 where its bytes show that they are within limit.

    A token stands for one byte at least, so most prompts need no tokenizing: 40,000 take a second.
    """

    def rendered(prompt: list[dict]) -> str:
        return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)

    template = len(rendered([{"role": "user", "content": ""}]).encode())

    def count(row: Mapping) -> int:
        prompt = row["prompt"]
        most = sum(len(turn["content"].encode()) + template for turn in prompt)
        if most <= limit:
            return 0
        return len(tokenizer(rendered(prompt), add_special_tokens=False)["input_ids"])

    return count


def question_tokens(tokenizer: Any, questions: Sequence[str]) -> list[int]:
    """Tokens of each question alone, without template and instruction."""
    found: list[int] = []
    for start in range(0, len(questions), 4096):
        part = list(questions[start : start + 4096])
        found += map(len, tokenizer(part, add_special_tokens=False)["input_ids"])
    return found
