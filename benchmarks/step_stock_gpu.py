"""What stock verl gets on a GPU without flash-attn: our log-probabilities in place of a loop.

verl takes them by a kernel of flash-attn, and where that is missing token by token in Python. To
beat that would say nothing of what else is measured. Loaded by `VERL_USE_EXTERNAL_MODULES`.
"""

from verl.utils import torch_functional

from trainer.backend.log_probs import log_probs

torch_functional.logprobs_from_logits_v2 = log_probs  # called only where flash-attn is missing
