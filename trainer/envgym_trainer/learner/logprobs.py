"""Log probabilities of chosen tokens from hidden states, without ever holding all logits.

The vocabulary is 50,000 wide and a step has thousands of sampled tokens: the full logits would be gigabytes. Here a few
hundred rows are scored at a time, and because the head is frozen the gradient towards the hidden state is formed at once.
Left out: heads with a bias, soft-capped or scaled logits (the learner refuses such models), and gradients for the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def action_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 256,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Natural log of each token's probability, softmax(hidden @ head_weight.T / temperature)[token].

    Args:
        hidden: (N, d) hidden states that predict the tokens; the gradient flows here and nowhere else.
        head_weight: (V, d) of the frozen language-model head.
        token_ids: (N,) int64.
        temperature: the temperature the tokens were sampled at.
        chunk: rows scored at once; memory is about 3 * chunk * V numbers.
        entropy_gradient: whether the entropy too carries a gradient, for one more product with the head.
    Returns: logprobs (N,) with gradient, entropy (N,) in nats without, or with one if asked; both at least float32.
    Raises: ValueError where the head would need a gradient, which is not formed.
    """
    if head_weight.requires_grad:
        raise ValueError(
            "action_logprobs treats the head as frozen, but head_weight requires a gradient. Freeze lm_head."
        )
    return _ActionLogprobs.apply(
        hidden, head_weight, token_ids, temperature, chunk, entropy_gradient
    )  # type: ignore[return-value]


class _ActionLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head_weight: Tensor,
        token_ids: Tensor,
        temperature: float,
        chunk: int,
        entropy_gradient: bool,
    ):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        slope = (
            torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        )  # (N, d) d logprob / d hidden
        entropy_slope = (
            torch.empty_like(hidden) if ctx.needs_input_grad[0] and entropy_gradient else None
        )  # (N, d)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            ids = token_ids[rows, None]
            logits = (hidden[rows] @ head_weight.T).to(dtype).div_(temperature)  # (chunk, V)
            logits -= logits.amax(dim=-1, keepdim=True)
            scores = (
                logits.exp()
            )  # probabilities but for their sum, which is divided out of small results only
            total = scores.sum(dim=-1)
            logprobs[rows] = logits.gather(1, ids).squeeze(1) - total.log()
            # Entropy = -sum p log p, with log p = logits - log total. As an einsum it is one pass over memory.
            entropy[rows] = total.log() - torch.einsum("nv,nv->n", scores, logits) / total
            if slope is not None:
                # d logprob / d hidden = (W[id] - sum_v p_v W[v]) / temperature
                mean = scores.to(head_weight.dtype) @ head_weight / total[:, None]
                slope[rows] = (
                    (head_weight[token_ids[rows]] - mean).div_(temperature).to(slope.dtype)
                )
            if entropy_slope is not None:
                # d entropy / d logit_v = -p_v (log p_v + entropy), and log p_v + entropy = logit_v - sum_u p_u logit_u
                logits += (entropy[rows] - total.log())[:, None]
                pull = (scores.mul_(logits)).to(head_weight.dtype) @ head_weight / total[:, None]
                entropy_slope[rows] = pull.div_(-temperature).to(entropy_slope.dtype)
        if slope is not None:
            ctx.save_for_backward(slope, entropy_slope)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        slope, entropy_slope = ctx.saved_tensors
        towards = grads[0][:, None] * slope
        if entropy_slope is not None:
            towards = towards + grads[1][:, None] * entropy_slope
        return towards.to(slope.dtype), None, None, None, None, None
