"""What takes long to import, and every process of a trainer or a sampler imports.

Of these, verl and our own modules import most; by name here stands what brings the rest along.
Neither Ray nor what imports it may be among them: a worker's Ray must find its environment.
"""

import torch  # noqa: F401

from trainer.lean import lean_transformers

lean_transformers()

import transformers.models.auto.modeling_auto  # noqa: E402
import transformers.models.qwen2.modeling_qwen2  # noqa: E402, F401
