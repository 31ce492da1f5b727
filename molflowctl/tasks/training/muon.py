"""Muon: momentum whose matrix updates are replaced by their nearest orthogonal matrix.

Matrices of one shape are orthogonalised together in a batched product, in float32 on processors
without bf16 units; `torch.optim.Muon` takes them one by one and always in bf16.

References:
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024,
    kellerjordan.github.io/posts/muon (the quintic iteration and its coefficients).
    Liu et al., Muon is scalable for LLM training, 2025, arXiv 2502.16982 (scale 0.2 sqrt(max)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Muon", "optimisers_of", "orthogonalise"]


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """The polar factor `U V^T` of `g = U S V^T`, about: singular values near 1; `(K, m, n)`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if g.shape[-2] > g.shape[-1] else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices; its step length is matched to AdamW's, so both share one learning rate.

    Arguments:
        params: two-dimensional parameters. A matrix may hold several blocks stacked by rows
            (queries, keys and values): set `blocks` in its group.
        lr, momentum, weight_decay: as in AdamW with Nesterov momentum.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "blocks": 1}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"])
                by_shape.setdefault(p.shape, []).append((p, update))
            for (rows, columns), members in by_shape.items():
                rows //= group["blocks"]
                stack = torch.stack([u for _, u in members]).view(-1, rows, columns)
                if stack.is_cuda:
                    stack = stack.bfloat16()
                updates = orthogonalise(stack).float().view(len(members), -1, columns)
                length = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for (p, _), update in zip(members, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=length)


def optimisers_of(flow: nn.Module, kind: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or, of `kind` "muon", Muon for the matrices of the layers."""
    matrices = {
        name: p
        for name, p in flow.named_parameters()
        if kind == "muon" and ".layers." in name and p.ndim == 2
    }
    rest = [p for name, p in flow.named_parameters() if name not in matrices]
    adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    if not matrices:
        return [adamw]
    stacked = [p for name, p in matrices.items() if ".qkv." in name]
    single = [p for name, p in matrices.items() if ".qkv." not in name]
    return [adamw, Muon([{"params": single}, {"params": stacked, "blocks": 3}], lr=lr)]
