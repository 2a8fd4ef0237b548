"""Make the embedded pair (tokenizer, target and drafters) from a seed.

    python -m dflash_mlx.train.tiny tokenizer target refine drafter --out FOLDER

Owns the recipe: sizes, seeds and amounts. Does not know the text (exercises.py), or how
a drafter is trained (trainer.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from mlx_lm.utils import load_model, load_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ..loading import quantize_linear
from ..models.drafters import load_folder, save_folder
from ..models.drafters.dflash import DFlash
from ..pair import Pair
from .answers import write_answers
from .exercises import conversation, draw
from .optim import make_optimizer, make_step
from .options import TrainOptions
from .trainer import Trainer

SEED = 7
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
END, START, STOP, MASK = range(4)
VOCAB = 512
TARGET = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "eos_token_id": STOP,
    "torch_dtype": "bfloat16",
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)


def make_tokenizer(out: Path, texts: int = 20000) -> None:
    """Train a byte-level BPE tokenizer, one token per digit, and write its files."""
    rng = Random(SEED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    exercises = (draw(rng) for _ in range(texts))
    corpus = ("\n".join(("user\n", p, "assistant\n", a)) for p, a in exercises)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[STOP],
        "pad_token": SPECIAL[END],
        "mask_token": SPECIAL[MASK],
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": TARGET["max_position_embeddings"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def windows(
    tokenizer: Tokenizer, rng: Random, length: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield training sequences of `length` + 1 tokens, as (ids, loss weights), forever.

    A sequence is a row of conversations, the last one cut off. The weights are 0.1 for
    a question, 1 for an answer, and 3 for the token that ends an answer, since when to
    stop is the hardest to learn.
    """
    while True:
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) <= length:
            prompt, answer = draw(rng)
            prompt_ids = tokenizer.encode(
                f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
            ).ids
            answer_ids = tokenizer.encode(f"{answer}<|im_end|>\n").ids
            ids += prompt_ids + answer_ids
            weights += [0.1] * len(prompt_ids)
            weights += [1.0] * (len(answer_ids) - 2) + [3.0, 1.0]
        yield ids[: length + 1], weights[: length + 1]


def language_loss(model, ids, weights):
    """Weighted next-token cross-entropy; ids, weights: [B, T + 1]."""
    logits = model(ids[:, :-1]).astype(mx.float32)
    losses = nn.losses.cross_entropy(logits, ids[:, 1:])
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def make_target(out: Path, steps: int = 1400) -> None:
    """Train the target from scratch."""
    mx.random.seed(SEED)
    model = Model(ModelArgs.from_dict(TARGET))
    train_target(model, out, steps, peak=3e-3, seed=SEED + 1)


def refine_target(out: Path, steps: int = 1200) -> None:
    """Train the target further, with a lower learning rate."""
    model, _ = load_model(out)
    model.set_dtype(mx.float32)
    model.train()
    train_target(model, out, steps, peak=2e-3, seed=SEED + 101)


def train_target(model: Model, out: Path, steps: int, peak: float, seed: int) -> None:
    """Train a target and write its config.json and model.safetensors in bfloat16.

    An update sees 3,072 tokens: sequences of 192 in the first four fifths of the steps,
    then of 512, so that the target also learns positions beyond one short answer.

    Args:
        model: The target, trained in place.
        out: The folder, which has the tokenizer.
        steps: Number of updates.
        peak: Peak learning rate.
        seed: Seed of the text.
    """
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    rng = Random(seed)
    optimizer = make_optimizer(peak, steps, warmup=steps // 25, weight_decay=0.05)
    step = make_step(model, optimizer, language_loss)
    start, losses = time.perf_counter(), []
    for n in range(1, steps + 1):
        length = 192 if n <= steps * 4 // 5 else 512
        rows = list(islice(windows(tokenizer, rng, length), 3072 // length))
        ids = mx.array(np.array([r[0] for r in rows]))
        weights = mx.array(np.array([r[1] for r in rows], dtype=np.float32))
        losses.append(step(ids, weights).item())
        if n % 25 == 0:
            rate = n * 3072 / (time.perf_counter() - start)
            mean = sum(losses[-25:]) / 25
            print(f"step {n}/{steps} loss {mean:.4f} {rate:.0f} tok/s", flush=True)
    model.set_dtype(mx.bfloat16)
    mx.save_safetensors(
        str(out / "model.safetensors"),
        dict(tree_flatten(model.parameters())),
        metadata={"format": "mlx"},
    )
    (out / "config.json").write_text(json.dumps(TARGET, indent=2) + "\n")


CONVERSATIONS = 4096  # for the drafter, without the held-out ones
DRAFTER = TrainOptions(
    block_size=8,
    layers=2,
    taps=(1, 3, 4),
    mask_token_id=MASK,
    context_window=128,
    steps=1600,
    batch=16,
    anchors=24,
    max_length=512,
    lr=2e-3,
    held_out=64,
    eval_every=200,
    save_every=100,
    seed=SEED,
)

# Drafters of each kind for a comparison. They start from the finished DFlash drafter,
# and get the number of updates that take the same time.
HEAD_RANKS = {"dflash": None, "dflash2": 64, "dspark": 64}
HEAD_STEPS = {"dflash": 730, "dflash2": 600, "dspark": 600}


def make_drafter(out: Path) -> None:
    """Train the DFlash drafter in a folder beside `out` and write it to `out`."""
    drafter = train_drafter(out, out.with_name(f"{out.name}-drafter"), DRAFTER)
    save_folder(drafter, out / "drafter")


def head_options(out: Path, kind: str, rank: int | None) -> TrainOptions:
    """Options that train a drafter of `kind` from the DFlash drafter of `out`."""
    return replace(
        DRAFTER,
        kind=kind,
        rank=rank,
        lr=1e-3,
        steps=HEAD_STEPS[kind],
        warm_start=str(out / "drafter"),
    )


def make_dflash2(out: Path, bits: int = 3) -> None:
    """Train the DFlash 2 drafter and write it in 3 bits, to keep the package small."""
    options = head_options(out, "dflash2", rank=16)
    work = out.with_name(f"{out.name}-dflash2")
    train_drafter(out, work, options)
    drafter = load_folder(work)
    quantize_linear(drafter, bits)
    save_folder(drafter, out / "dflash2", None)


def head_stage(kind: str) -> Callable[[Path], None]:
    """A stage that trains a drafter of `kind` in a folder beside `out`."""

    def stage(out: Path) -> None:
        options = head_options(out, kind, HEAD_RANKS[kind])
        train_drafter(out, out.with_name(f"{out.name}-head-{kind}"), options)

    return stage


def train_drafter(out: Path, work: Path, options: TrainOptions) -> DFlash:
    """Have the target write its answers, unless they exist, and train a drafter.

    The last conversations are held-out exercises of one turn. Training is in float32,
    since half precision is slow on a CPU. Saving rounds the weights.

    Args:
        out: The folder of the target.
        work: Folder of the training run.
        options: Settings of the run.

    Returns:
        The trained drafter.
    """
    rng = Random(SEED + 2)
    chats = [conversation(rng, rng.choice([1, 1, 2])) for _ in range(CONVERSATIONS)]
    chats += [conversation(rng, 1, held_out=True) for _ in range(DRAFTER.held_out)]
    prompts = [[m for m in chat if m["role"] == "user"] for chat in chats]
    model, config = load_model(out)
    model.set_dtype(mx.float32)
    tokenizer = load_tokenizer(out, eos_token_ids=config["eos_token_id"])
    pair = Pair.of(model, None, config)
    answers = out.with_name(f"{out.name}-drafter") / "answers.jsonl"
    answers.parent.mkdir(parents=True, exist_ok=True)
    examples = write_answers(
        pair,
        tokenizer,
        prompts,
        answers,
        progress=lambda done, total: print(f"answers {done}/{total}", flush=True),
    )
    trainer = Trainer(pair, tokenizer, examples, options, work)
    return trainer.train(
        lambda report: report.step % 20 == 0 and print(report, flush=True)
    )


STAGES = {
    "tokenizer": make_tokenizer,
    "target": make_target,
    "refine": refine_target,
    "drafter": make_drafter,
    "dflash2": make_dflash2,
    "head-dflash": head_stage("dflash"),
    "head-dflash2": head_stage("dflash2"),
    "head-dspark": head_stage("dspark"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="+", choices=list(STAGES))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in args.stages:
        STAGES[stage](args.out)


if __name__ == "__main__":
    main()
