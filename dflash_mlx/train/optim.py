"""The optimizer, its learning-rate schedule, and the update step.

Owns gradients and learning rates. Does not know data, models or files.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as opt


def make_optimizer(
    lr: float, steps: int, warmup: int, weight_decay: float = 0.0
) -> opt.AdamW:
    """AdamW with linear warm-up, then cosine decay to a tenth of `lr`.

    Args:
        lr: Peak learning rate.
        steps: Number of updates in the whole run, warm-up included.
        warmup: Number of updates from zero to the peak.
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
    """Make the function that updates the model once.

    It runs eagerly, since mx.compile on the CPU compiles C++ and is many times slower.

    Args:
        model: The model to train, in place.
        optimizer: The optimizer.
        loss: loss(model, *batch) returns a scalar, or a tuple that starts with it.
        clip: Maximum norm of the gradient.

    Returns:
        step(*batch), which updates the model and returns the value of `loss`.
    """
    value_and_grad = nn.value_and_grad(model, loss)

    def step(*batch):
        value, grads = value_and_grad(model, *batch)
        grads, _ = opt.clip_grad_norm(grads, clip)
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state, value)
        return value

    return step
