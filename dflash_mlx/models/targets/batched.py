"""One pass of a stock model over the rows of several texts.

The rows of all texts are passed as one text [1, R, H], without padding, so that
embeddings, norms, MLPs, experts and the head are one operation and read their weights
once. A module that gets a cache runs once for each text, with the rows, the mask and
the cache of that text alone, so its arithmetic is that of the text's own pass. Its
projections of whole rows are shared too: those of its input are computed for all texts
when the first text asks, and that of its result after the last text has run.

Owns what stands for several texts in a model's own code, and the modules around it.
Works on any mlx-lm layer whose children get the cache. Does not know families, kinds of
cache, or what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .replay import Recorder, Tape
from .views import with_call, with_children

# These compute each row [1, n, D] on its own.
ROW_WISE = (nn.Linear, nn.QuantizedLinear, nn.RMSNorm, nn.LayerNorm)


class PerText:
    """One value for each text. Models pass it on to the modules that run per text.

    Args:
        values: The values, in the order of the texts.
    """

    def __init__(self, values: Sequence[Any]):
        self.values = values


class Offsets(PerText):
    """The number of rows in each text's cache.

    Args:
        values: The numbers.
        widths: The number of rows of each text in this pass.
    """

    def __init__(self, values: Sequence[int], widths: Sequence[int]):
        super().__init__(values)
        self.widths = widths

    def __mlx_array__(self) -> mx.array:
        """What to add to arange(R) [R], so that each row gets its text's position."""
        firsts = accumulate(self.widths, initial=0)
        steps = [
            value - first
            for value, first, n in zip(self.values, firsts, self.widths, strict=False)
            for _ in range(n)
        ]
        return mx.array(steps)


class Entries(PerText):
    """The caches of one layer, in place of a cache.

    Args:
        values: The layer's cache of each text.
        widths: The number of rows of each text in this pass.
    """

    def __init__(self, values: Sequence[Any], widths: Sequence[int]):
        super().__init__(values)
        self.widths = widths

    def make_mask(self, N: int, *args: Any, **options: Any) -> PerText:
        """The mask of each text's rows. Kinds of cache take other arguments after N."""
        pairs = zip(self.values, self.widths, strict=True)
        return PerText([entry.make_mask(n, *args, **options) for entry, n in pairs])

    @property
    def offset(self) -> Offsets:
        """The number of rows in each text's cache."""
        return Offsets([entry.offset for entry in self.values], self.widths)

    def __getitem__(self, index: int) -> Entries:
        """Members of lists of caches. A state's arrays belong to no model's own code,
        and are refused."""
        members = [entry[index] for entry in self.values]
        if any(member is None or isinstance(member, mx.array) for member in members):
            raise TypeError("a recurrent state is read outside its module")
        return Entries(members, self.widths)


@dataclass
class Rows:
    """An array [1, R, ...] and its parts for each text.

    Args:
        whole: The array.
        parts: By text, [1, n, ...].
        outputs: By id of a row-wise module, its output.
    """

    whole: mx.array
    parts: list[mx.array]
    outputs: dict[int, Rows | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A row-wise module's call on rows that one text's module has computed.

    Args:
        key: The id of the module.
        run: The module's stock call.
        rows: Its argument.
        out: Its output.
    """

    key: int
    run: Callable
    rows: mx.array
    out: mx.array


class Texts:
    """Runs the modules of one view that get a cache, once for each text of a pass.

    Args:
        recorder: The recorder of the view.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self.widths: list[int] = []
        self.tapes: Sequence[Tape | None] = ()
        self.text: int | None = None  # the text whose module runs
        self._rows: dict[int, Rows] = {}
        self._calls: dict[int, Call] = {}

    @contextmanager
    def passing(
        self, widths: list[int], tapes: Sequence[Tape | None]
    ) -> Iterator[None]:
        """Passes inside this context are over texts with these numbers of rows.

        Args:
            widths: The number of rows of each text.
            tapes: Where the recurrent modules of each text are recorded.
        """
        self.widths, self.tapes = widths, tapes
        self.bounds = list(accumulate(widths))
        try:
            yield
        finally:
            self.widths, self.tapes = [], ()

    def share_parts(self, layer: nn.Module) -> nn.Module:
        """A copy of a decoder layer whose children share their row-wise parts."""
        return with_children(layer, lambda child: with_children(child, self._share))

    def split_children(self, layer: nn.Module) -> nn.Module:
        """A copy of a decoder layer whose children run per text if they get a cache."""

        def split(child):
            if callable(child):
                return with_call(child, self._call_child)
            return with_children(child, split)  # its parts are called one by one

        return with_children(layer, split)

    def _share(self, module):
        if not isinstance(module, ROW_WISE):
            return with_children(module, self._share)
        key = id(module)

        def call(run, *args, **kwargs):
            if self.text is None or kwargs or len(args) != 1:
                return run(*args, **kwargs)
            return self._call_row_wise(key, run, args[0])

        return with_call(module, call)

    def _call_row_wise(self, key, run, x):
        """Call a row-wise module: for all texts if `x` is a part of an array."""
        rows = self._rows.get(id(x))
        if rows is not None:
            if key not in rows.outputs:
                rows.outputs[key] = self._split(run(rows.whole))
            if (outputs := rows.outputs[key]) is not None:
                return outputs.parts[self.text]
        out = run(x)
        self._calls[id(out)] = Call(key, run, x, out)
        return out

    def _call_child(self, run, *args, **kwargs):
        """Call a child of a layer: once for each text if anything differs by text."""
        if not any(isinstance(v, PerText) for v in (*args, *kwargs.values())):
            return run(*args, **kwargs)
        columns = [self._by_text(value) for value in args]
        named = {name: self._by_text(value) for name, value in kwargs.items()}
        results = []
        try:
            for i in range(len(self.widths)):
                self.text, self.recorder.tape = i, self.tapes[i]
                options = {name: values[i] for name, values in named.items()}
                results.append(run(*(values[i] for values in columns), **options))
            self.text = None
            return self._join(results)
        finally:
            self.text = self.recorder.tape = None
            self._rows.clear()
            self._calls.clear()

    def _by_text(self, value) -> list[Any]:
        """The value of an argument for each text."""
        if isinstance(value, PerText):
            return list(value.values)
        if isinstance(value, tuple | list):
            columns = [self._by_text(item) for item in value]
            return [type(value)(items) for items in zip(*columns, strict=True)]
        if isinstance(value, mx.array):
            rows = self._split(value)
            if rows is not None:
                return rows.parts
        return [value] * len(self.widths)

    def _split(self, whole) -> Rows | None:
        """An array with a row for each row of the pass, by text; None for others."""
        total = self.bounds[-1]
        if whole.shape[:2] == (1, total):
            axis = 1
        elif whole.shape == (total, 1):
            axis = 0
        else:
            return None
        rows = Rows(whole, mx.split(whole, self.bounds[:-1], axis))
        self._rows |= {id(part): rows for part in rows.parts}
        return rows

    def _join(self, results) -> Any:
        """The outputs of each text as one output: arrays of rows one after the other,
        and anything else as it is for each text."""
        first = results[0]
        if isinstance(first, tuple):
            return tuple(self._join(items) for items in zip(*results, strict=True))
        if all(value is None for value in results):
            return None
        if not all(isinstance(value, mx.array) for value in results):
            return PerText(results)
        if not self._are_rows(results):
            return PerText(results)
        calls = [self._calls.get(id(value)) for value in results]
        if all(call is not None and call.key == calls[0].key for call in calls):
            inputs = [call.rows for call in calls]
            if self._are_rows(inputs):
                return calls[0].run(mx.concatenate(inputs, axis=1))
        return mx.concatenate(results, axis=1)

    def _are_rows(self, arrays):
        """Whether the arrays are [1, n, ...], each with its text's rows."""
        return all(
            array.shape[:2] == (1, n) and array.shape[2:] == arrays[0].shape[2:]
            for array, n in zip(arrays, self.widths, strict=True)
        )


def group_rows(widths: Sequence[int], most: int) -> list[slice]:
    """Divide texts into groups of neighbours with at most `most` rows each.

    A text with more rows is a group of its own.

    Args:
        widths: The number of rows of each text.
        most: The most rows of a group of several texts.
    """
    starts, rows = [], 0
    for i, n in enumerate(widths):
        if not starts or rows + n > most:
            starts.append(i)
            rows = 0
        rows += n
    return [slice(a, b) for a, b in pairwise([*starts, len(widths)])]
