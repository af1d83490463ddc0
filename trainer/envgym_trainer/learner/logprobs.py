"""Log probabilities of chosen tokens from hidden states, without materializing all logits.

With a vocabulary of 50,000 and thousands of sampled tokens, the full logits would need gigabytes.
Here a few hundred rows are computed at a time. Because the head is frozen, the gradient with
respect to the hidden state is computed at once. Not supported: heads with a bias, soft-capped or
scaled logits (the learner refuses them), and gradients for the head.
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
    """Return log(softmax(hidden @ head_weight.T / temperature)[token]) for each token.

    Args:
        hidden: Hidden states that predict the tokens, shape (N, d). Only they get a gradient.
        head_weight: Frozen language-model head, shape (V, d).
        token_ids: Shape (N,), int64.
        temperature: Temperature at which the tokens were sampled.
        chunk: Rows computed at once. Memory is about 3 * chunk * V numbers.
        entropy_gradient: Compute a gradient of the entropy too. It costs another product with the
            head.

    Returns:
        Logprobs, shape (N,), with gradient, and entropy in nats, shape (N,), with gradient if
        requested. Both are at least float32.

    Raises:
        ValueError: If the head requires a gradient.
    """
    if head_weight.requires_grad:
        raise ValueError(
            "action_logprobs treats the head as frozen, but head_weight requires a gradient. "
            "Freeze lm_head."
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
            # Not normalized: dividing the small results by the sum is cheaper.
            scores = logits.exp()
            total = scores.sum(dim=-1)
            logprobs[rows] = logits.gather(1, ids).squeeze(1) - total.log()
            # Entropy = -sum p log p, with log p = logits - log total. The einsum reads memory once.
            entropy[rows] = total.log() - torch.einsum("nv,nv->n", scores, logits) / total
            if slope is not None:
                # d logprob / d hidden = (W[id] - sum_v p_v W[v]) / temperature
                mean = scores.to(head_weight.dtype) @ head_weight / total[:, None]
                slope[rows] = (
                    (head_weight[token_ids[rows]] - mean).div_(temperature).to(slope.dtype)
                )
            if entropy_slope is not None:
                # d entropy / d logit_v = -p_v (log p_v + entropy)
                # log p_v + entropy = logit_v - sum_u p_u logit_u
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
