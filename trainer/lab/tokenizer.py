"""The lab's tokenizer: bytes, and one token for each piece that a chain is made of."""

from string import ascii_lowercase

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from trainer.lab.task import INSTRUCTION, OPERANDS

END = "<|im_end|>"
"""Ends a message, and with it a response."""
PAD = "<|endoftext|>"
"""Fills the left of short prompts."""
AGAIN = " again"
"""Says that the step before is gone through once more."""

TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>
{% endif -%}
"""
"""Chat format in the manner of Qwen and R1: the generation prompt opens the thinking."""


def _merges() -> list[tuple[str, str]]:
    """Byte pairs that make whole tokens of letters after a space, roles and the question's end."""
    space = bytes_to_unicode()[ord(" ")]
    merges = [(space, letter) for letter in ascii_lowercase]
    for word in ("user", "assistant", f"{space}=?"):
        merges += [(word[:size], word[size]) for size in range(1, len(word))]
    return list(dict.fromkeys(merges))


def new_tokenizer() -> Qwen2Tokenizer:
    """A byte-level tokenizer of Qwen2's kind, whose vocabulary has no hole and no padding.

    transformers 5 rebuilds any Qwen2 tokenizer as byte-level BPE from vocabulary and merges, and
    verl wants a newline to be one token: so bytes are the alphabet, whatever the task needs.
    """
    merges = _merges()
    pieces = [*bytes_to_unicode().values(), *("".join(pair) for pair in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        unk_token=PAD,
        eos_token=END,
        pad_token=PAD,
    )
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True, normalized=False)])
    # Not special: decoding without special tokens must keep what the grader reads.
    words = ["<think>", "</think>", "\\boxed{", AGAIN]
    words += [f"{operand:+d}" for operand in OPERANDS] + [f"={digit};" for digit in range(10)]
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    # With the space before it, so that a prompt spends one token on the whole of it.
    tokenizer.add_tokens([AddedToken(f" {INSTRUCTION}", special=False, normalized=False)])
    tokenizer.chat_template = TEMPLATE
    return tokenizer
