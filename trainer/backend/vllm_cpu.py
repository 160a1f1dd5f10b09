"""vLLM's CPU build as verl's rollout: weights that stay in place, so that they can be synced.

vLLM packs each linear layer into a oneDNN handle at load and empties `layer.weight`; a later
weight sync would then write into nothing. This worker extension keeps plain weights.
"""

import torch.nn.functional as functional

from trainer.backend import vllm_weights


class WorkerExtension(vllm_weights.WorkerExtension):
    """Our worker extension, with unpacked linear layers on a CPU."""

    def __new__(cls, **kwargs):
        """Replace vLLM's packing before it loads the model."""
        import vllm.model_executor.layers.utils as layers

        def keep_weight(layer, remove_weight: bool) -> None:
            layer.cpu_linear = functional.linear

        layers.dispatch_cpu_unquantized_gemm = keep_weight
        return super().__new__(cls, **kwargs)
