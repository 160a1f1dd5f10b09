"""Import transformers without what it brings along and nobody here uses.

A stage starts six processes, an evaluation one, and each would spend a fifth of its start on it. A
flow, which has no model, would spend most of the time that it takes to read a tokenizer.
"""

import sys

_unused = {"sklearn"}  # by transformers in this process


def only_tokenizers() -> None:
    """Say that this process makes no model: transformers may then do without torch, too."""
    _unused.add("torch")


def lean_transformers() -> None:
    """Let transformers take what this process makes no use of for not installed.

    That is scikit-learn, which MLflow installs: transformers imports it, with all of scipy.stats,
    for assisted decoding; and torch, after `only_tokenizers`. Must be called before the first class
    is asked for; for what is imported already it changes nothing.
    """
    import transformers.utils
    from transformers.utils import import_utils

    for package in _unused - sys.modules.keys():
        for module in (transformers.utils, import_utils):
            setattr(module, f"is_{package}_available", lambda: False)
