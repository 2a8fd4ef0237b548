"""One contender of the race, in a process of its own.

    python -m benchmarks.race_worker NAME FOLDER

FOLDER holds `target` and `drafter`, as race.py writes them. Every line of stdin is a
request, a JSON object with the prompt's token `ids` and the number of `tokens` to
produce. Every line of stdout is its answer: the `tokens`, and for each of them the
seconds since the start (`times`) at which the caller had it. Only what a contender
needs is imported, so that it may run in another project's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

Answer = dict[str, list]
# run(ids, tokens) -> the answer.
Run = Callable[[list[int], int], Answer]
# start(folder) loads the pair.
Start = Callable[[Path], Run]


def timed(pieces: Iterable[list[int]]) -> Answer:
    """Consume an answer, the tokens that arrived together in one piece, and time it."""
    tokens, times, start = [], [], time.perf_counter()
    for piece in pieces:
        tokens += piece
        times += [time.perf_counter() - start] * len(piece)
    return {"tokens": tokens, "times": times}


def mlx_lm(folder: Path) -> Run:
    """mlx_lm.stream_generate, without a drafter."""
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder / "target"))

    def run(ids, tokens):
        stream = stream_generate(model, tokenizer, ids, max_tokens=tokens)
        return timed([response.token] for response in stream)

    return run


def ours(block_size: int | None = None, speculate: bool = True) -> Start:
    """dflash_mlx.stream_generate with these options."""

    def start(folder):
        from dflash_mlx import load

        pair, tokenizer = load(folder / "target", folder / "drafter")
        return own_run(pair, tokenizer, block_size, speculate)

    return start


def turning(folder: Path) -> Run:
    """As `ours`, with a drafter whose drafts are all wrong in each answer's second
    half: a text that turns from easy to hard."""
    from dflash_mlx import load

    pair, tokenizer = load(folder / "target", folder / "drafter")
    drafter = Turning(pair.drafter)
    run = own_run(replace(pair, drafter=drafter), tokenizer)

    def run_and_turn(ids, tokens):
        drafter.turn = len(ids) + tokens // 2
        return run(ids, tokens)

    return run_and_turn


class Turning:
    """A drafter whose drafts are all wrong from some row on, at the usual cost.

    Args:
        drafter: Computes the drafts.

    Attributes:
        turn: The number of committed rows after which drafts are wrong.
    """

    confident = False
    turn = 0

    def __init__(self, drafter: Any):
        self.drafter = drafter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.drafter, name)

    def propose(self, anchor, cache, width, choose):
        """As Drafter.propose."""
        ids = self.drafter.propose(anchor, cache, width, choose)
        if cache[0].offset < self.turn:
            return ids
        return (ids + 1) % self.drafter.config.vocab_size


def own_run(
    pair: Any,
    tokenizer: Any,
    block_size: int | None = None,
    speculate: bool = True,
) -> Run:
    """Answer with dflash_mlx.stream_generate.

    Args:
        pair, tokenizer, block_size, speculate: As there.
    """
    from dflash_mlx import stream_generate

    def run(ids, tokens):
        stream = stream_generate(
            pair,
            tokenizer,
            ids,
            max_tokens=tokens,
            block_size=block_size,
            speculate=speculate,
        )
        produced, times, count, start = [], [], 0, time.perf_counter()
        for response in stream:
            if response.stats.tokens > count:  # the first token of a round
                count, at = response.stats.tokens, time.perf_counter() - start
            produced.append(response.token)
            times.append(at)
        return {"tokens": produced, "times": times}

    return run


def published(folder: Path) -> Run:
    """stream_generate of the package `dflash`."""
    from dflash.model_mlx import DFlashConfig, DFlashDraftModel, stream_generate
    from mlx_lm import load

    model, tokenizer = load(str(folder / "target"))
    config = json.loads((folder / "drafter" / "config.json").read_text())
    config |= config["dflash_config"]
    names = set(DFlashConfig.__dataclass_fields__) & set(config)
    draft = DFlashDraftModel(DFlashConfig(**{name: config[name] for name in names}))
    draft.load_weights(str(folder / "drafter" / "model.safetensors"))
    draft.eval()
    mx.eval(draft.parameters())

    def run(ids, tokens):
        stream = stream_generate(
            model, draft, tokenizer, mx.array(ids), max_tokens=tokens
        )
        return timed(list(response.tokens) for response in stream)

    return run


def mlx_dspark(folder: Path) -> Run:
    """mlx_dspark.dflash_generate. It reports the seconds of the prefill."""
    from mlx_dspark import dflash_generate, load_dflash, load_target

    target, tokenizer = load_target(str(folder / "target"), require_tap=True)
    drafter, _ = load_dflash(str(folder / "drafter"), quantize=False)
    drafter.bind(target.model)

    def run(ids, tokens):
        pieces = []
        start = time.perf_counter()

        def on_round(committed, **_):
            pieces.extend([time.perf_counter() - start] * committed)

        result = dflash_generate(
            target,
            tokenizer,
            drafter,
            prompt_ids=ids,
            max_new_tokens=tokens,
            on_round=on_round,
        )
        # The last block may hold more than was asked for.
        tokens = result.token_ids[:tokens]
        times = [result.prefill_seconds, *pieces][: len(tokens)]
        return {"tokens": tokens, "times": times}

    return run


def capturing_language_model() -> type:
    """mlx_vlm's Qwen3 with the argument that its DFlash loop needs of a target, and
    that 0.7.10 has in other families only: layers whose output is returned."""
    from mlx_vlm.models.base import LanguageModelOutput, create_attention_mask
    from mlx_vlm.models.qwen3.language import LanguageModel

    class Capturing(LanguageModel):
        def __call__(
            self,
            inputs=None,
            cache=None,
            inputs_embeds=None,
            capture_layer_ids=(),
            logits_to_keep=0,
            **_,
        ):
            body = self.model
            h = body.embed_tokens(inputs) if inputs_embeds is None else inputs_embeds
            mask, captured = create_attention_mask(h, cache[0]), []
            for i, (layer, entry) in enumerate(zip(body.layers, cache, strict=True)):
                h = layer(h, mask, entry)
                if i in capture_layer_ids:
                    captured.append(h)
            h = body.norm(h[:, -logits_to_keep:])
            logits = body.embed_tokens.as_linear(h)
            return LanguageModelOutput(logits=logits, hidden_states=captured)

    return Capturing


def mlx_vlm(folder: Path) -> Run:
    """generate_step of mlx_vlm with a DFlash drafter."""
    from mlx_vlm.generate.ar import generate_step
    from mlx_vlm.speculative.drafters import load_drafter
    from mlx_vlm.utils import load_model

    model = load_model(folder / "target")
    target = capturing_language_model()(model.language_model.args)
    target.update(model.language_model.parameters())
    model.language_model = target
    draft, kind = load_drafter(str(folder / "drafter"))

    def stream(ids, tokens) -> Iterator[list[int]]:
        steps = generate_step(
            mx.array([ids]),
            model,
            None,
            None,
            max_tokens=tokens,
            temperature=0.0,
            draft_model=draft,
            draft_kind=kind,
        )
        for token, _ in steps:
            yield [int(token)]

    return lambda ids, tokens: timed(stream(ids, tokens))


CONTENDERS: dict[str, Start] = {
    "mlx-lm": mlx_lm,
    "auto": ours(),
    "block 8": ours(block_size=8),
    "plain": ours(speculate=False),
    "turning": turning,
    "published": published,
    "mlx-dspark": mlx_dspark,
    "mlx-vlm": mlx_vlm,
}


def main() -> None:
    """Answer the requests on stdin until it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run = CONTENDERS[options.name](options.folder)
    print(json.dumps({"mlx": mx.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(request["ids"], request["tokens"])), file=answers)
        answers.flush()


if __name__ == "__main__":
    main()
