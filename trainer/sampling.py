"""Responses sampled from a causal language model, token by token, in one batch.

For processors and small models, where a serving engine would spend its time on itself. Prompts are
padded on the left, keys and values are kept between steps, and a response that has ended leaves the
batch, so a few long ones do not cost what many would.

Shapes: U different prompts, B responses still growing, V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

# Copying the cache costs about one step of attention; dropping ended responses pays from here on.
_COMPACT_BELOW = 0.85


@dataclass(frozen=True)
class Sample:
    """One sampled response.

    Attributes:
        tokens: Token ids of the response, its end token included where it produced one.
        logprobs: Natural log-probability of each token under the temperature-scaled distribution,
            before top-p and top-k: what a trainer recomputes.
        finished: Whether an end token ended it; if not, it was cut off at its longest length.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool


class _ReservedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with room to grow.

    The layer it replaces concatenates, which copies the whole cache at every token.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.held = 0
            self.keys = key_states.new_empty(0)
        needed = self.held + key_states.shape[-2]
        if self.held == 0 or needed > self.keys.shape[-2]:
            self.keys = self._grown(self.keys, key_states, needed)
            self.values = self._grown(self.values, value_states, needed)
        self.keys[:, :, self.held : needed] = key_states
        self.values[:, :, self.held : needed] = value_states
        self.held = needed
        return self.keys[:, :, :needed], self.values[:, :, :needed]

    def _grown(self, old: Tensor, new: Tensor, needed: int) -> Tensor:
        rows, heads, _, width = new.shape
        grown = new.new_empty(rows, heads, needed + max(needed // 2, 64), width)
        if self.held:
            grown[:, :, : self.held] = old[:, :, : self.held]
        return grown

    def get_seq_length(self) -> int:
        return self.held if self.is_initialized else 0

    def batch_select_indices(self, indices: Tensor) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(indices), *old.shape[1:])
            new[:, :, : self.held] = old[:, :, : self.held].index_select(0, indices)
            setattr(self, name, new)


def _new_cache(model: PreTrainedModel) -> tuple[DynamicCache, bool]:
    """An empty cache, and whether every layer attends to everything before it."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_ReservedLayer() if type(old) is DynamicLayer else old for old in cache.layers]
    return cache, all(isinstance(layer, _ReservedLayer) for layer in cache.layers)


def nucleus(logprobs: Tensor, top_p: float, top_k: int) -> Tensor:
    """Log-probabilities with the tokens outside the nucleus at minus infinity, not renormalised.

    The nucleus is the shortest run of tokens, likeliest first, whose probabilities sum to `top_p`
    or more, and of those at most `top_k`. It always holds the likeliest token.

    Args:
        logprobs: [B, V] natural log-probabilities.
        top_p: In (0, 1]; 1 keeps all.
        top_k: Number of tokens; 0 or less keeps all.

    Source:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.

    >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.6, -1).isinf().tolist()
    [[False, False, True]]
    """
    ordered, tokens = logprobs.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    outside = before >= top_p
    if top_k > 0:
        outside[:, top_k:] = True
    outside[:, 0] = False
    return logprobs.masked_fill(outside.scatter(-1, tokens, outside), -torch.inf)


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63) from what names a response: stage seed, prompt, number in its group.

    The same on every machine and in every process, which `hash` is not.

    >>> seed_of(0, "lab_train-7", 1) == seed_of(0, "lab_train-7", 1) != seed_of(0, "lab_train-7", 2)
    True
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def uniforms(seeds: np.ndarray, step: int) -> np.ndarray:
    """One number in (0, 1) for each seed, the same whenever seed and step are.

        u = mix(mix(seed) + (step + 1) * phi),  phi = 0x9E3779B97F4A7C15

    with the finaliser `mix` of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom
    number generators"). A counter and no state, so that a response does not depend on which others
    share its batch, nor on whether the run was interrupted.

    Args:
        seeds: [B] uint64.
        step: Position in the response, from 0.

    Returns:
        [B] float64 with 52 random bits.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is wanted
        mixed = _mix(_mix(seeds) + np.uint64(step + 1) * np.uint64(0x9E3779B97F4A7C15))
    return ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52


def _mix(bits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _check(
    prompts: list[list[int]],
    limits: list[int],
    seeds: Sequence[int],
    temperature: float,
    top_p: float,
) -> None:
    if not all(prompts):
        raise ValueError(
            "a prompt without tokens cannot be continued\n\nhint: start it with a beginning token"
        )
    if len(seeds) != len(prompts):
        raise ValueError(
            f"{len(seeds)} seeds for {len(prompts)} prompts\n\nhint: give one to each, by `seed_of`"
        )
    if len(limits) != len(prompts):
        raise ValueError(
            f"{len(limits)} lengths for {len(prompts)} prompts\n\n"
            "hint: give `max_new_tokens` once, or once per prompt"
        )
    if min(limits) < 1:
        raise ValueError(
            f"max_new_tokens is {min(limits)}, a response has at least 1 token\n\n"
            "hint: raise `context_length`"
        )
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature is {temperature} and top_p {top_p}, needed are at least 0, and more than "
            "0 up to 1\n\nhint: temperature 0 is greedy, top_p 1 keeps every token"
        )


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int | Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = -1,
    eos_ids: set[int],
    pad_id: int,
    seeds: Sequence[int],
) -> list[Sample]:
    """One response to each prompt; a prompt that stands there several times is read once.

        token = min { v : p_0 + ... + p_v > u },  u in (0, 1) by `uniforms`

    which draws v with probability p_v. A response depends on its own seed and prompt alone: in
    another batch it differs only where rounding of the logits moves a p across u.

    Args:
        model: Any transformers causal language model. Put in evaluation mode while it samples.
        prompts: Token ids of each prompt, any lengths of at least 1.
        max_new_tokens: Longest response in tokens, one for all or one for each prompt.
        temperature: Divides the logits; 0 takes the likeliest token, and `logprobs` are then
            those at temperature 1.
        top_p: Nucleus in probability, in (0, 1]; 1 is off.
        top_k: Tokens to choose among; 0 or less is off.
        eos_ids: Tokens that end a response.
        pad_id: Token that fills the left of short prompts; never attended to.
        seeds: One for each prompt, in [0, 2^63); the same prompt and seed give the same response.

    Returns:
        Samples in the order of the prompts.

    Raises:
        ValueError: for an empty prompt, a length below 1, a missing seed, or settings out of range.
    """
    if not prompts:
        return []
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    limits = list(limits)
    _check(prompts, limits, seeds, temperature, top_p)
    was_training = model.training
    model.eval()  # in training mode, gradient checkpointing silently drops the cache
    try:
        return _decode(
            model,
            prompts,
            limits,
            temperature,
            top_p,
            top_k,
            eos_ids,
            pad_id,
            np.array(seeds, dtype=np.uint64),
        )
    finally:
        model.train(was_training)


def _decode(model, prompts, limits, temperature, top_p, top_k, eos_ids, pad_id, seeds):
    device = model.device
    cache, full_attention = _new_cache(model)
    logits, mask, rows = _prefill(model, cache, prompts, pad_id)  # rows: prompt -> its row in U
    cache.batch_select_indices(rows)
    logits, mask = logits[rows], mask[rows]
    positions = mask.sum(dim=-1, keepdim=True)
    ragged = not mask.all()
    # Room for all masks at once: what is appended is always attended to.
    mask = torch.nn.functional.pad(mask, (0, max(limits)), value=True)

    lengths = torch.tensor(limits, device=device)
    alive = torch.arange(len(prompts), device=device)  # batch row -> prompt
    growing = torch.ones(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
    tokens = torch.full((max(limits), len(prompts)), pad_id, dtype=torch.long, device=device)
    logprobs = torch.zeros((max(limits), len(prompts)), device=device)
    taken = lengths.clone()
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)

    for step in range(max(limits)):
        drawn = torch.from_numpy(uniforms(seeds, step)).to(device)
        chosen, chosen_logprobs = _choose(logits, temperature, top_p, top_k, drawn)
        tokens[step, alive] = chosen
        logprobs[step, alive] = chosen_logprobs

        ended = growing & torch.isin(chosen, ends)
        finished[alive[ended]] = True
        taken[alive[ended]] = step + 1
        growing &= ~ended & (lengths[alive] > step + 1)
        left = int(growing.sum())
        if left == 0:
            break
        if left < _COMPACT_BELOW * len(growing):
            keep = growing.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            mask, positions = mask[keep], positions[keep]
            alive, growing, chosen = alive[keep], growing[keep], chosen[keep]
            seeds = seeds[keep.cpu().numpy()]
        width = cache.get_seq_length() + 1
        attended = mask[:, :width]
        if full_attention and model.config._attn_implementation == "sdpa":
            # One query sees all its keys, so the four-dimensional mask is the mask itself, and
            # none is needed without padding. Building it anew inside the model costs more. Other
            # implementations would add it to the scores, or want two dimensions.
            attended = attended[:, None, None, :] if ragged else None
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=attended,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        positions = positions + 1

    tokens, logprobs = tokens.T.tolist(), logprobs.T.tolist()
    return [
        Sample(tokens[row][:count], logprobs[row][:count], ended)
        for row, (count, ended) in enumerate(zip(taken.tolist(), finished.tolist(), strict=True))
    ]


def _prefill(model, cache, prompts, pad_id) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token logits [U, V], attention mask [U, longest] and each prompt's row in them."""
    different = {
        tuple(prompt): row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))
    }
    longest = max(map(len, different))
    ids = torch.full((len(different), longest), pad_id)
    mask = torch.zeros(len(different), longest, dtype=torch.bool)
    for prompt, row in different.items():
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = True
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    rows = torch.tensor([different[tuple(prompt)] for prompt in prompts], device=model.device)
    return logits, mask, rows


def _choose(logits, temperature, top_p, top_k, drawn) -> tuple[Tensor, Tensor]:
    """A token for each row of [B, V] logits, and its log-probability before top-p and top-k."""
    scaled = logits.float() if temperature in (0, 1) else logits.float() / temperature
    logprobs = scaled.log_softmax(dim=-1)
    if temperature == 0:
        chosen = logprobs.argmax(dim=-1)
    else:
        admitted = nucleus(logprobs, top_p, top_k) if top_p < 1 or top_k > 0 else logprobs
        upto = (
            admitted.exp().double().cumsum(dim=-1)
        )  # double: what is unlikely must not round away
        # Of the sum that came out, which is 1 only up to rounding and less inside a nucleus; and
        # below it, so that there is a token beyond the target.
        total = upto[:, -1:]
        target = torch.minimum(drawn[:, None] * total, total.nextafter(torch.zeros_like(total)))
        chosen = torch.searchsorted(upto, target, right=True).squeeze(-1)
    return chosen, logprobs.gather(-1, chosen[:, None]).squeeze(-1)
