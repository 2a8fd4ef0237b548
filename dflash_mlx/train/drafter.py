"""A training run of a drafter for a loaded target.

Owns the run: batches in order, updates, checkpoints, evaluation, the written folder.
The target writes the text (answers.py) and its features are taken as training goes;
it is never changed.
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
from ..models.drafters import make, save_folder
from ..models.drafters.checkpoint import compare
from ..models.drafters.dflash import DFlash
from ..models.drafters.dspark import DSpark
from ..pair import Pair
from .answers import Example
from .objective import (
    Batch,
    loss,
    make_batch,
    teacher_rows,
)
from .optim import make_optimizer, make_step
from .settings import TrainOptions, new_config


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
        check_enough(len(examples), options)
        self.options, self.out = options, out
        # An answer of one token within max_length has nothing to predict.
        self.train = [
            example
            for example in examples[: -options.held_out]
            if any(
                start + 1 < min(end, options.max_length) for start, end in example.spans
            )
        ]
        if not self.train:
            raise DataError(
                "No answer is long enough to train on.",
                "Give other prompts, or a larger --max-length.",
            )
        self.held_out = examples[-options.held_out :]
        mx.random.seed(options.seed)
        self.drafter = start(pair, tokenizer, options)
        window = options.context_window or usual_length(self.train, options.max_length)
        self.drafter.config = replace(self.drafter.config, context_window=window)
        self.drafter.own_window = window
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
            value, kept = self.update(*self._lesson(batch))
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

    def _lesson(self, batch: Batch) -> tuple[mx.array, Batch, mx.array | None]:
        """What the loss takes: features, the batch, and the target's logits where the
        drafter's kind learns from them."""
        forward, taps = self.pair.target.forward, self.drafter.taps
        if not isinstance(self.drafter, DSpark):
            features = forward(batch.ids, None, taps)[1]
            return mx.stop_gradient(features.astype(mx.float32)), batch, None
        # One sequence at a time: logits of all would not fit.
        features, teacher = [], []
        for row, anchors in zip(batch.ids, batch.anchors, strict=True):
            logits, found = forward(row[None], None, taps)
            rows = teacher_rows(logits, anchors, batch.labels.shape[1])
            mx.eval(rows, found)
            teacher.append(rows)
            features.append(found.astype(mx.float32))
        features = mx.concatenate(features)
        return mx.stop_gradient(features), batch, mx.concatenate(teacher)

    def _save(self):
        """Write drafter and checkpoint, each whole or not at all."""
        save_folder(self.drafter, self.out)
        state = dict(tree_flatten(self.optimizer.state))
        folder = self.out / "checkpoint"
        folder.mkdir(exist_ok=True)
        temporary = folder / "new.safetensors"
        text = json.dumps(
            {"options": asdict(self.options), "record": self.record}, indent=2
        )
        written = self.out / "training.new"
        written.write_text(text + "\n")
        written.replace(self.out / "training.json")
        mx.save_safetensors(
            str(temporary),
            {f"optimizer.{k}": v for k, v in state.items()}
            | {f"drafter.{k}": v for k, v in tree_flatten(self.drafter.parameters())},
            metadata={"step": str(self.step), "options": repr(self.options)},
        )
        temporary.replace(folder / "state.safetensors")

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
        record = json.loads((self.out / "training.json").read_text())["record"]
        self.record = [row for row in record if row["step"] <= self.step]


def start(pair: Pair, tokenizer: Any, options: TrainOptions) -> DFlash:
    """The drafter that a run begins with.

    With a source, its body; what a kind adds changes nothing yet, so the first drafts
    are the source's.

    Raises:
        DFlashError: The source cannot be had, or does not go with the settings.
    """
    if options.warm_start is None:
        return make(new_config(pair, tokenizer, options))
    source = load_drafter(options.warm_start)
    check_pair(pair.target.config, source.config)
    if source.bits:
        raise OptionError(
            f"The drafter {options.warm_start} is quantized and cannot be trained on.",
            "Start from what it was made from.",
        )
    drafter = make(new_config(pair, tokenizer, options, source.config))
    weights = dict(tree_flatten(source.parameters()))
    new = dict(tree_flatten(drafter.parameters())) | weights
    compare(drafter, new, Path(options.warm_start))
    drafter.load_weights([(k, v.astype(mx.float32)) for k, v in new.items()])
    return drafter


def usual_length(examples: list[Example], most: int) -> int:
    """The length, `most` at most, that nine tenths of the texts do not exceed, in
    whole 64s."""
    lengths = sorted(min(len(example.ids), most) for example in examples)
    return -(-lengths[len(lengths) * 9 // 10] // 64) * 64


def check_enough(conversations: int, options: TrainOptions) -> None:
    """Raise OptionError when the held-out ones leave nothing to train on."""
    if conversations <= options.held_out:
        raise OptionError(
            f"{conversations} conversations leave nothing to train on when "
            f"{options.held_out} are held out.",
            "Give more data or a smaller --held-out.",
        )


def tokens_per_round(pair: Pair, examples: list[Example]) -> float:
    """Greedy decoding of the first answers of `examples`: tokens per verify pass."""
    tokens = rounds = 0
    width = pair.drafter.block_size
    for example in examples:
        start, end = example.spans[0]
        options = {"max_tokens": end - start, "block_size": width}
        for round in decode(pair, example.ids[:start], **options):
            if round.width:
                tokens, rounds = tokens + len(round.tokens), rounds + 1
    return tokens / max(rounds, 1)
