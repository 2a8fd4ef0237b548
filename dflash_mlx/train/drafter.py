"""Train a DFlash v1 drafter for a loaded target (arXiv 2602.06036, section 4).

Owns anchors, the block mask, the loss and the training run with its checkpoints.
The target writes the text (answers.py) and its features are taken as training
goes; it is never changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import OptionError
from ..loop import decode
from ..models.drafters.dflash import DFlash, DFlashConfig
from ..pair import Pair
from ..types import require
from .answers import Example
from .optim import make_optimizer, make_step

# Logits of so many numbers exist at once; more are recomputed in the backward pass.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class TrainOptions:
    """A training run; the defaults are the paper's where it gives them.

    Args:
        block_size: Rows of a block, the anchor included.
        layers: Draft layers.
        taps: Target layers to read; None spreads five (or `layers`) over the depth.
        mask_token_id: The id of a masked slot; None takes the tokenizer's mask token
            or the first id that the tokenizer does not use.
        steps: Updates.
        batch: Sequences per update.
        anchors: Blocks per sequence and update, drawn anew each time.
        max_length: Longer sequences are cut.
        lr, warmup, clip: Peak rate, share of the steps to reach it, gradient norm.
        gamma: Weight of slot k is exp(-(k - 1) / gamma); None goes by block size.
        held_out: Conversations kept for the evaluation.
        eval_every, save_every: Updates between them.
        seed: Of initial weights, order and anchors.
    """

    block_size: int = 16
    layers: int = 5
    taps: tuple[int, ...] | None = None
    mask_token_id: int | None = None
    steps: int = 1000
    batch: int = 8
    anchors: int = 64
    max_length: int = 2048
    lr: float = 6e-4
    warmup: float = 0.04
    clip: float = 1.0
    gamma: float | None = None
    held_out: int = 32
    eval_every: int = 100
    save_every: int = 100
    seed: int = 0

    def __post_init__(self):
        require(self.block_size >= 2, "block_size", "2 or more", self.block_size)
        for name in ("layers", "steps", "batch", "anchors", "eval_every", "save_every"):
            value = getattr(self, name)
            require(value >= 1, name, "1 or more", value)
        require(self.lr > 0, "lr", "above 0", self.lr)
        require(self.held_out >= 1, "held_out", "1 or more", self.held_out)

    def decay(self) -> float:
        """gamma, by default the paper's 4, 5 and 7 for blocks of 8, 10 and 16."""
        if self.gamma is not None:
            return self.gamma
        return float(np.interp(self.block_size, [8, 10, 16], [4, 5, 7]))


def default_taps(target_layers: int, taps: int) -> tuple[int, ...]:
    """Layers spread over the target's depth: 1 to N - 3, as published heads have it."""
    if taps == 1:
        return (target_layers // 2,)
    step = (target_layers - 4) / (taps - 1)
    return tuple(sorted({round(1 + i * step) for i in range(taps)}))


def new_config(pair: Pair, tokenizer: Any, options: TrainOptions) -> DFlashConfig:
    """The config of an untrained drafter for a target.

    Raises:
        OptionError: No id is free for the mask token.
    """
    config, target = pair.target.config, pair.target
    mask = options.mask_token_id
    if mask is None:
        mask = tokenizer.mask_token_id
    if mask is None and len(tokenizer) < target.vocab_size:
        mask = len(tokenizer)
    if mask is None:
        raise OptionError(
            "The tokenizer uses every id of the vocabulary and has no mask token.",
            "Name an id that text never has with --mask-token-id.",
        )
    heads = config["num_attention_heads"]
    return DFlashConfig(
        hidden_size=target.hidden_size,
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim", target.hidden_size // heads),
        vocab_size=target.vocab_size,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        max_position_embeddings=config.get("max_position_embeddings", 40960),
        block_size=options.block_size,
        mask_token_id=mask,
        target_layer_ids=options.taps
        or default_taps(target.num_layers, max(5, options.layers)),
        num_target_layers=target.num_layers,
        rope_theta=float(config.get("rope_theta") or 10000.0),
    )


@dataclass(frozen=True)
class Batch:
    """Blocks of several sequences.

    Args:
        ids: [N, T] sequences, padded on the right.
        anchors: [N, M] positions of the anchors.
        blocks: [N * M, B] ids of the blocks as they are fed: anchor, then masks.
        labels: [N * M, B - 1] the tokens behind the anchors.
        weights: [N * M, B - 1] 0 where there is nothing to predict.
    """

    ids: mx.array
    anchors: mx.array
    blocks: mx.array
    labels: mx.array
    weights: mx.array


def make_batch(
    examples: list[Example], config: DFlashConfig, options: TrainOptions, rng: Random
) -> Batch:
    """Draw anchors at random from the answers: positions whose token and successor
    the target wrote. Fewer than asked are filled up with weight 0."""
    width, many = config.block_size, options.anchors
    length = min(options.max_length, max(len(e.ids) for e in examples))
    ids = np.zeros((len(examples), length), dtype=np.uint32)
    anchors = np.zeros((len(examples), many), dtype=np.int32)
    blocks = np.full((len(examples), many, width), config.mask_token_id, np.uint32)
    labels = np.zeros((len(examples), many, width - 1), dtype=np.uint32)
    weights = np.zeros(labels.shape, dtype=np.float32)
    decay = np.exp(-np.arange(width - 1) / options.decay())
    for n, example in enumerate(examples):
        row = example.ids[:length]
        ids[n, : len(row)] = row
        ends = {a: end for start, end in example.spans for a in range(start, end - 1)}
        places = [a for a in ends if a < len(row) - 1]
        for m, a in enumerate(rng.sample(places, min(many, len(places)))):
            behind = row[a + 1 : min(a + width, ends[a])]
            anchors[n, m] = a
            blocks[n, m, 0] = row[a]
            labels[n, m, : len(behind)] = behind
            weights[n, m, : len(behind)] = decay[: len(behind)]
    flat = len(examples) * many
    return Batch(
        mx.array(ids),
        mx.array(anchors),
        mx.array(blocks.reshape(flat, width)),
        mx.array(labels.reshape(flat, width - 1)),
        mx.array(weights.reshape(flat, width - 1)),
    )


def block_mask(anchors: mx.array, width: int, context: int) -> mx.array:
    """What each block row sees: context strictly before its anchor, its own block.

    Args:
        anchors: [N, M].
        width: B.
        context: S rows of context.

    Returns:
        [N, 1, M * B, S + M * B], True where visible.
    """
    n, m = anchors.shape
    seen = mx.arange(context)[None, None] < anchors[..., None]  # [N, M, S]
    own = mx.broadcast_to(mx.eye(m, dtype=mx.bool_)[None], (n, m, m))
    rows = mx.concatenate([seen, mx.repeat(own, width, axis=2)], axis=-1)
    return mx.repeat(rows, width, axis=1)[:, None]


def block_hidden(drafter: DFlash, features: mx.array, batch: Batch) -> mx.array:
    """One pass over all blocks: hidden states [N * M, B, H].

    Args:
        features: [N, T, len(taps) * H] of the batch's sequences.
    """
    mask = block_mask(batch.anchors, batch.blocks.shape[1], features.shape[1])
    contexts = drafter.context(features)
    return drafter.hidden(batch.blocks, contexts, batch.anchors.reshape(-1), mask)


def loss(
    drafter: DFlash, features: mx.array, batch: Batch
) -> tuple[mx.array, mx.array]:
    """Position-weighted cross-entropy (eq. 4 of the paper), and the acceptance.

    Returns:
        The mean loss, and [B - 1] the share of blocks whose first k guesses are all
        right, k = 1..B - 1.
    """
    hidden = block_hidden(drafter, features, batch)[:, 1:]

    def losses(hidden, labels):
        logits = drafter.logits(hidden).astype(mx.float32)
        right = (mx.argmax(logits, axis=-1) == labels).astype(mx.float32)
        return nn.losses.cross_entropy(logits, labels), right

    rows = max(1, LOGITS_AT_ONCE // (hidden.shape[1] * drafter.config.vocab_size))
    part = losses if rows >= hidden.shape[0] else mx.checkpoint(losses)
    pieces = [
        part(hidden[i : i + rows], batch.labels[i : i + rows])
        for i in range(0, hidden.shape[0], rows)
    ]
    entropy = mx.concatenate([piece[0] for piece in pieces])
    right = mx.concatenate([piece[1] for piece in pieces])
    full = (batch.weights[:, -1:] > 0).astype(mx.float32)
    kept = (mx.cumprod(right, axis=1) * full).sum(0) / mx.maximum(full.sum(), 1)
    weights = batch.weights
    return (entropy * weights).sum() / weights.sum(), mx.stop_gradient(kept)


@dataclass
class Report:
    """Where a run is; passed to the caller's progress function."""

    step: int
    steps: int
    loss: float
    acceptance: list[float]
    tokens_per_second: float
    held_out: float | None = None


class Run:
    """One training run in a folder, resumed if a checkpoint is there.

    Args:
        pair: The target (a drafter in it is ignored).
        tokenizer: For the default mask token only.
        examples: From answers.write_answers; the last `held_out` are not trained on.
        options: Settings.
        out: Folder for the drafter, its checkpoint and its training record.
    """

    def __init__(
        self,
        pair: Pair,
        tokenizer: Any,
        examples: list[Example],
        options: TrainOptions,
        out: Path,
    ):
        if len(examples) <= options.held_out:
            raise OptionError(
                f"{len(examples)} conversations leave nothing to train on when "
                f"{options.held_out} are held out.",
                "Give more data or a smaller --held-out.",
            )
        self.options, self.out = options, out
        self.train = examples[: -options.held_out]
        self.held_out = examples[-options.held_out :]
        mx.random.seed(options.seed)
        self.drafter = DFlash(new_config(pair, tokenizer, options))
        self.pair = Pair.of(pair.model, self.drafter, pair.target.config)
        warmup = round(options.steps * options.warmup)
        self.optimizer = make_optimizer(options.lr, options.steps, warmup)
        self.update = make_step(self.drafter, self.optimizer, loss, options.clip)
        self.step = 0
        self.record: list[dict] = []
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def go(self, progress: Callable[[Report], None] | None = None) -> DFlash:
        """Train to the end and write the drafter.

        Args:
            progress: Called after every update.
        """
        self.drafter.train()
        while self.step < self.options.steps:
            start = time.perf_counter()
            batch = self._batch(self.step)
            value, kept = self.update(self._features(batch), batch)
            seconds = time.perf_counter() - start
            self.step += 1
            report = Report(
                self.step,
                self.options.steps,
                value.item(),
                kept.tolist(),
                batch.ids.size / seconds,
            )
            last = self.step == self.options.steps
            if last or self.step % self.options.eval_every == 0:
                report.held_out = tokens_per_round(self.pair, self.held_out)
                self.record.append(asdict(report))
            if last or self.step % self.options.save_every == 0:
                self._save()
            if progress:
                progress(report)
        self.drafter.eval()
        return self.drafter

    def _batch(self, step):
        """The batch of a step, a function of (seed, step): a resumed run repeats it.

        Epochs are shuffled orders; sequences of similar length share a batch.
        """
        size = self.options.batch
        per_epoch = max(1, len(self.train) // size)
        epoch, place = divmod(step, per_epoch)
        rng = Random(f"{self.options.seed} {epoch}")
        order = rng.sample(range(len(self.train)), len(self.train))
        pools = [order[i : i + 16 * size] for i in range(0, len(order), 16 * size)]
        batches = []
        for pool in pools:
            pool.sort(key=lambda i: len(self.train[i].ids))
            parts = [pool[i : i + size] for i in range(0, len(pool), size)]
            rng.shuffle(parts)
            batches += parts
        rows = [self.train[i] for i in batches[place]]
        anchors = Random(f"{self.options.seed} {step} anchors")
        return make_batch(rows, self.drafter.config, self.options, anchors)

    def _features(self, batch):
        features = self.pair.target.forward(batch.ids, None, self.drafter.taps)[1]
        return mx.stop_gradient(features.astype(mx.float32))

    def _save(self):
        """Write drafter and checkpoint, each whole or not at all."""
        save_drafter(self.drafter, self.out)
        state = dict(tree_flatten(self.optimizer.state))
        folder = self.out / "checkpoint"
        folder.mkdir(exist_ok=True)
        temporary = folder / "new.safetensors"
        mx.save_safetensors(
            str(temporary),
            {f"optimizer.{k}": v for k, v in state.items()}
            | {f"drafter.{k}": v for k, v in tree_flatten(self.drafter.parameters())},
            metadata={"step": str(self.step), "options": repr(self.options)},
        )
        temporary.replace(folder / "state.safetensors")
        text = json.dumps(
            {"options": asdict(self.options), "record": self.record}, indent=2
        )
        (self.out / "training.json").write_text(text + "\n")

    def _resume(self):
        file = self.out / "checkpoint" / "state.safetensors"
        if not file.is_file():
            return
        arrays, metadata = mx.load(str(file), return_metadata=True)
        if metadata["options"] != repr(self.options):
            raise OptionError(
                f"{self.out} holds a run with other settings.",
                "Repeat its settings, or choose another --out.",
            )
        parts = {"optimizer": [], "drafter": []}
        for name, array in arrays.items():
            part, name = name.split(".", 1)
            parts[part].append((name, array))
        self.drafter.load_weights(parts["drafter"])
        self.optimizer.state = tree_unflatten(parts["optimizer"])
        self.step = int(metadata["step"])
        self.record = json.loads((self.out / "training.json").read_text())["record"]


def save_drafter(drafter: DFlash, folder: Path, dtype: mx.Dtype = mx.bfloat16) -> None:
    """Write config.json and model.safetensors in z-lab's format."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.astype(dtype) for k, v in tree_flatten(drafter.parameters())}
    temporary = folder / "new.safetensors"
    mx.save_safetensors(str(temporary), weights, {"format": "mlx"})
    temporary.replace(folder / "model.safetensors")
    text = json.dumps(drafter.config.to_json(), indent=2)
    (folder / "config.json").write_text(text + "\n")


def tokens_per_round(pair: Pair, examples: list[Example]) -> float:
    """Greedy decoding of the first answers of `examples`: tokens per verify pass."""
    tokens = rounds = 0
    for example in examples:
        start, end = example.spans[0]
        for round in decode(pair, example.ids[:start], max_tokens=end - start):
            if round.width:
                tokens, rounds = tokens + len(round.tokens), rounds + 1
    return tokens / max(rounds, 1)
