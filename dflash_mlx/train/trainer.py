"""Train a drafter for a loaded target.

Owns a training run: order of the batches, updates, evaluation, checkpoints, and the
folder that the drafter is written to. Does not know where the answers come from
(answers.py) or what is learned from a batch (objective.py). The target is only read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ..decoding.loop import decode
from ..errors import DataError, OptionError
from ..loading import check_pair, load_drafter
from ..models.drafters import build_drafter, save_folder
from ..models.drafters.dflash import DFlash
from ..models.drafters.dspark import DSpark
from ..models.drafters.weights import check_weights
from ..pair import Pair
from .answers import Example
from .drafter_config import new_config
from .objective import Batch, loss, make_batch, teacher_logits
from .optim import make_optimizer, make_step
from .options import TrainOptions

# Conversations held out by default, of ten times as many or more.
MAX_HELD_OUT = 32


@dataclass
class StepReport:
    """The state of a run after an update, for a progress function.

    Args:
        step, steps: Updates done, and in the whole run.
        loss: Mean loss of the batch.
        acceptance: Share of the blocks in which all drafts up to a slot are right.
        tokens_per_second: Sequence tokens trained on, padding included.
        held_out: Tokens per round on the held-out conversations, at an evaluation.
    """

    step: int
    steps: int
    loss: float
    acceptance: list[float]
    tokens_per_second: float
    held_out: float | None = None


class Trainer:
    """A training run in a folder. Resumes from a checkpoint in it.

    Args:
        pair: The target. Its drafter, if any, is ignored.
        tokenizer: Source of the default mask token.
        examples: From answers.write_answers. The last `held_out_of(...)` are not
            trained on.
        options: Settings of the run.
        out: Folder for the drafter, the checkpoint and training.json.

    Raises:
        OptionError: The folder holds a run with other options, or too few examples.
        DataError: No answer is long enough.
        DFlashError: As in initial_drafter.
    """

    def __init__(
        self,
        pair: Pair,
        tokenizer: Any,
        examples: list[Example],
        options: TrainOptions,
        out: Path,
    ):
        held_out = held_out_of(len(examples), options)
        self.options, self.out = options, out
        self.examples = trainable(examples[:-held_out], options.max_length)
        self.held_out = examples[-held_out:]
        mx.random.seed(options.seed)
        self.drafter = initial_drafter(pair, tokenizer, options)
        window = options.context_window or length_of_most(
            self.examples, options.max_length
        )
        self.drafter.config = replace(self.drafter.config, context_window=window)
        self.drafter.window_limit = window
        self.pair = Pair.of(pair.model, self.drafter, pair.target.config)
        warmup = round(options.steps * options.warmup)
        self.optimizer = make_optimizer(options.lr, options.steps, warmup)
        self.update_weights = make_step(
            self.drafter, self.optimizer, loss, options.clip
        )
        self.step = 0
        self.record: list[dict] = []
        out.mkdir(parents=True, exist_ok=True)
        self._load_checkpoint()

    def train(self, progress: Callable[[StepReport], None] | None = None) -> DFlash:
        """Run the remaining updates and write the drafter.

        Args:
            progress: Called after every update.

        Returns:
            The trained drafter.
        """
        self.drafter.train()
        while self.step < self.options.steps:
            report = self._train_step()
            last = self.step == self.options.steps
            if last or self.step % self.options.eval_every == 0:
                report.held_out = tokens_per_round(self.pair, self.held_out)
                self.record.append(asdict(report))
            if last or self.step % self.options.save_every == 0:
                self._save_checkpoint()
            if progress:
                progress(report)
        self.drafter.eval()
        return self.drafter

    def _train_step(self) -> StepReport:
        started = time.perf_counter()
        batch = self.batch_at(self.step)
        value, acceptance = self.update_weights(*self.loss_inputs(batch))
        seconds = time.perf_counter() - started
        self.step += 1
        return StepReport(
            self.step,
            self.options.steps,
            value.item(),
            acceptance.tolist(),
            batch.ids.size / seconds,
        )

    def batch_at(self, step: int) -> Batch:
        """The batch of a step. Depends on the seed and the step only.

        Each epoch is shuffled. Sequences of similar length share a batch.
        """
        size = self.options.batch
        per_epoch = max(1, len(self.examples) // size)
        epoch, index = divmod(step, per_epoch)
        rng = Random(f"{self.options.seed} {epoch}")
        order = rng.sample(range(len(self.examples)), len(self.examples))
        pools = [order[i : i + 16 * size] for i in range(0, len(order), 16 * size)]
        batches = []
        for pool in pools:
            pool.sort(key=lambda i: len(self.examples[i].ids))
            parts = [pool[i : i + size] for i in range(0, len(pool), size)]
            rng.shuffle(parts)
            batches += parts
        rows = [self.examples[i] for i in batches[index]]
        anchors = Random(f"{self.options.seed} {step} anchors")
        return make_batch(rows, self.drafter.config, self.options, anchors)

    def loss_inputs(self, batch: Batch) -> tuple[mx.array, Batch, mx.array | None]:
        """The arguments of `objective.loss` after the drafter.

        Returns:
            Features [N, T, len(taps) * H] in float32, the batch, and the target's
            logits [N * M, k, V], which are None unless the drafter is a DSpark.
        """
        forward, taps = self.pair.target.forward, self.drafter.taps
        if not isinstance(self.drafter, DSpark):
            features = forward(batch.ids, None, taps)[1]
            return mx.stop_gradient(features.astype(mx.float32)), batch, None
        # One sequence at a time, since the logits of all would not fit in memory.
        features, teacher = [], []
        for row, anchors in zip(batch.ids, batch.anchors, strict=True):
            logits, row_features = forward(row[None], None, taps)
            rows = teacher_logits(logits, anchors, batch.labels.shape[1])
            mx.eval(rows, row_features)
            teacher.append(rows)
            features.append(row_features.astype(mx.float32))
        features = mx.concatenate(features)
        return mx.stop_gradient(features), batch, mx.concatenate(teacher)

    def _save_checkpoint(self):
        """Write the drafter, training.json and the checkpoint, each atomically."""
        save_folder(self.drafter, self.out)
        state = dict(tree_flatten(self.optimizer.state))
        folder = self.out / "checkpoint"
        folder.mkdir(exist_ok=True)
        temporary = folder / "new.safetensors"
        text = json.dumps(
            {"options": asdict(self.options), "record": self.record}, indent=2
        )
        new_record = self.out / "training.new"
        new_record.write_text(text + "\n")
        new_record.replace(self.out / "training.json")
        mx.save_safetensors(
            str(temporary),
            {f"optimizer.{k}": v for k, v in state.items()}
            | {f"drafter.{k}": v for k, v in tree_flatten(self.drafter.parameters())},
            metadata={"step": str(self.step), "options": repr(self.options)},
        )
        temporary.replace(folder / "state.safetensors")

    def _load_checkpoint(self):
        file = self.out / "checkpoint" / "state.safetensors"
        if not file.is_file():
            return
        arrays, metadata = mx.load(str(file), return_metadata=True)
        if metadata["options"] != repr(self.options):
            raise OptionError(
                f"{self.out} holds a run with other options.",
                "Repeat its options, or choose another --out.",
            )
        parts = {"optimizer": [], "drafter": []}
        for name, array in arrays.items():
            part, name = name.split(".", 1)
            parts[part].append((name, array))
        self.drafter.load_weights(parts["drafter"])
        self.optimizer.state = tree_unflatten(parts["optimizer"])
        self.step = int(metadata["step"])
        record = json.loads((self.out / "training.json").read_text())["record"]
        self.record = [row for row in record if row["step"] <= self.step]


def trainable(examples: list[Example], max_length: int) -> list[Example]:
    """The examples with an answer of two tokens or more within `max_length`.

    Raises:
        DataError: There is none.
    """
    kept = [
        example
        for example in examples
        if any(start + 1 < min(end, max_length) for start, end in example.spans)
    ]
    if not kept:
        raise DataError(
            "No answer is long enough to train on.",
            "Use other prompts or a larger --max-length.",
        )
    return kept


def initial_drafter(pair: Pair, tokenizer: Any, options: TrainOptions) -> DFlash:
    """The drafter that training starts from.

    With `options.warm_start`, it keeps that drafter's weights, and the parts that
    `options.kind` adds have no effect yet: its first drafts are the same.

    Raises:
        DFlashError: The drafter to start from is not available, or contradicts the
            options.
    """
    if options.warm_start is None:
        return build_drafter(new_config(pair, tokenizer, options))
    source = load_drafter(options.warm_start)
    check_pair(pair.target.config, source.config)
    if source.bits:
        raise OptionError(
            f"The drafter {options.warm_start} is quantized and cannot be trained.",
            "Start from the drafter that it was quantized from.",
        )
    drafter = build_drafter(new_config(pair, tokenizer, options, source.config))
    weights = dict(tree_flatten(source.parameters()))
    new = dict(tree_flatten(drafter.parameters())) | weights
    check_weights(drafter, new, Path(options.warm_start))
    drafter.load_weights([(k, v.astype(mx.float32)) for k, v in new.items()])
    return drafter


def length_of_most(examples: list[Example], max_length: int) -> int:
    """The length that 90% of the texts do not exceed, rounded up to a multiple of 64.

    Args:
        examples: The texts.
        max_length: Length that longer texts are cut to.
    """
    lengths = sorted(min(len(example.ids), max_length) for example in examples)
    return -(-lengths[len(lengths) * 9 // 10] // 64) * 64


def held_out_of(conversations: int, options: TrainOptions) -> int:
    """The number of conversations that are not trained on.

    Args:
        conversations: The number of all conversations.
        options: Settings of the run.

    Raises:
        OptionError: Nothing is left to train on.
    """
    held_out = options.held_out
    if held_out is None:
        held_out = min(MAX_HELD_OUT, max(1, conversations // 10))
    if conversations <= held_out:
        raise OptionError(
            f"There is nothing to train on: {held_out} of {conversations} "
            "conversations would be held out.",
            "Use more data or a smaller --held-out.",
        )
    return held_out


def tokens_per_round(pair: Pair, examples: list[Example]) -> float:
    """Tokens per round in greedy decoding of the first answer of each example."""
    tokens = rounds = 0
    width = pair.drafter.block_size
    for example in examples:
        start, end = example.spans[0]
        options = {"max_tokens": end - start, "block_size": width}
        for round in decode(pair, example.ids[:start], **options):
            if round.width:
                tokens, rounds = tokens + len(round.tokens), rounds + 1
    return tokens / max(rounds, 1)
