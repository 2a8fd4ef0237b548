"""The prompt's passes, in chunks, before the first token and after a failure.

Owns the size of chunks and where they end. Does not know rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import mlx.core as mx

from ..cache.kinds import block_masks, flat
from ..cache.state import can_cut_anywhere
from .passes import Passes
from .pending import PendingPass
from .requests import ChunkPassed

# A prompt of so many rows is passed at once: where a pass's time is that of reading the
# weights, its last row costs a second pass otherwise.
SHORT_ROWS = 64

Progress = Callable[[int, int], None]


def prefill(
    passes: Passes, step: int, progress: Progress | None = None
) -> Generator[ChunkPassed, None, PendingPass]:
    """Pass the prompt in chunks of `step` rows and its last token alone, as mlx-lm
    does; a short one at once, where both give the same bits.

    The features of each chunk go to the drafter and are dropped; those of the last one
    are kept until after the first token. Logits are lazy, so only those of the last
    pass are computed.

    Args:
        passes: Run the models.
        step: Rows of a chunk.
        progress: Called with (prompt rows done, all of them).

    Yields:
        ChunkPassed after each chunk before the last pass.

    Returns:
        The pass whose last row chooses the first token.
    """
    text, cache = passes.cache.text, passes.cache
    total = len(text) - cache.rows
    last = total if is_short(passes, total, step) else 1
    yield from feed(passes, len(text) - last, step, progress)
    with passes.changing_caches():
        sent = passes.send(mx.array(text[-last:], dtype=mx.uint32), width=0)
        cache.rows += last
    if progress:
        progress(total, total)
    return sent


def is_short(passes: Passes, rows: int, step: int) -> bool:
    """Whether the prompt's last `rows` rows are passed at once."""
    cache = passes.cache
    # Where only drafters need snapshots, a mark needs no stop before the last row, nor
    # while the drafter's window has room for the whole prompt.
    window = passes.drafter.window if passes.drafting else None
    roomy = window is None or len(cache.text) <= window
    return (
        rows <= min(step, SHORT_ROWS)
        and (roomy or cache.to_mark() >= rows - 1)
        and not passes.kv.bits
        and all(can_cut_anywhere(entry) for entry in flat(cache.target))
        and passes.target.blocks_agree
    )


def restart(passes: Passes, step: int) -> Generator[ChunkPassed, None, PendingPass]:
    """Compute the caches again from the text, since a failure may have left any array
    wrong. If the answer has begun, its last token is passed as a pending row.

    Args, yields, returns: As `prefill`.
    """
    passes.forget_rows()
    text = passes.cache.text
    if len(text) == passes.prompt_end:
        return (yield from prefill(passes, step))
    passes.kept_tokens = len(text)
    yield from feed(passes, passes.prompt_end - 1, step)
    with block_masks(passes.cache.target):  # these rows were in blocks at first
        yield from feed(passes, len(text) - 1, step)
    return passes.verify(mx.array(text[-1:]))


def feed(
    passes: Passes, end: int, step: int, progress: Progress | None = None
) -> Iterator[ChunkPassed]:
    """Pass the text's rows before `end` in chunks, none of which extends over a mark of
    the cache.

    Args, yields: As `prefill`.
    """
    text, cache, features = passes.cache.text, passes.cache, passes.features
    first, total = cache.rows, len(text) - cache.rows
    if progress:
        progress(0, total)
    passes.flush_features()
    cache.snapshot()
    while cache.rows < end:
        n = min(step, end - cache.rows, cache.to_mark())
        chunk = mx.array(text[cache.rows : cache.rows + n], dtype=mx.uint32)
        visible = passes.visible(n)
        # A snapshot copies the drafter's context, which has to be complete.
        later = cache.rows + n == end and n < cache.to_mark()
        take = features.keep if later else features.extend
        with passes.changing_caches():
            # No name for the features: they are freed as soon as they are used.
            take(passes.forward(chunk, visible)[1], n, visible)
            cache.quantize(passes.kv)
            cache.rows += n
            cache.evaluate(features.prompt)
        cache.snapshot()
        mx.clear_cache()
        if progress:
            progress(cache.rows - first, total)
        yield ChunkPassed(len(text) - cache.rows)
    if passes.chooser.needs_tokens:
        passes.history = mx.array(text[: cache.rows], dtype=mx.uint32)
