"""Optimiser, schedule and the one update step that every trainer here uses.

Knows gradients and learning rates; nothing of data, models or files.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as opt


def make_optimizer(
    lr: float, steps: int, warmup: int, weight_decay: float = 0.0
) -> opt.AdamW:
    """AdamW under a linear warm-up and a cosine decay to a tenth of `lr`.

    Args:
        lr: Peak learning rate.
        steps: Updates in the whole run, warm-up included.
        warmup: Updates from zero to the peak.
        weight_decay: Decoupled weight decay.
    """
    warmup = max(1, min(warmup, steps - 1))
    schedule = opt.join_schedules(
        [
            opt.linear_schedule(lr / warmup, lr, warmup),
            opt.cosine_decay(lr, max(1, steps - warmup), lr / 10),
        ],
        [warmup],
    )
    return opt.AdamW(schedule, betas=[0.9, 0.95], weight_decay=weight_decay)


def make_step(
    model: nn.Module, optimizer: opt.Optimizer, loss: Callable, clip: float = 1.0
) -> Callable:
    """Return step(*batch) -> whatever `loss(model, *batch)` returns, after an update.

    `loss` returns a scalar, or a tuple whose first item is the scalar. Run
    eagerly: mx.compile on the CPU compiles C++ and is many times slower.
    """
    value_and_grad = nn.value_and_grad(model, loss)

    def step(*batch):
        value, grads = value_and_grad(model, *batch)
        grads, _ = opt.clip_grad_norm(grads, clip)
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state, value)
        return value

    return step
