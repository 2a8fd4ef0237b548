"""A PromptCache in a file: one safetensors, written whole or not at all.

Owns the format: the tokens, what every layer of target and drafter holds, the
snapshots, and fingerprints of both models, since rows of one mean nothing to another.
The versions of mlx and mlx-lm are noted for readers; a file of others is read.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import contextmanager
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

from ..errors import BrokenFileError, CacheFileError
from . import kinds
from .prompt_cache import CachedPair, PromptCache
from .rollback import known
from .snapshots import Snapshot
from .state import State, put_back, read

FORMAT = "dflash-mlx prompt cache"
VERSION = "1"
ANEW = "Make it anew, or name another file."
# Bytes of a number of the types that MLX writes.
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
SIZES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}
# Numbers of a cache that the model sets, and no text.
FIXED = ("keep", "max_size", "chunk_size", "window")


def save(cache: PromptCache, path: str | Path) -> None:
    """Write a conversation's caches to a file; one that is there is replaced.

    All snapshots go with them: they are what makes a later /undo, or a template that
    rewrites turns, cheap, and their budget bounds them.

    Args:
        cache: A decoding that is suspended with it is ended, as its close does.
        path: Any name.

    Raises:
        CacheFileError: The cache is broken or of an unknown kind, or the file cannot
            be written; what was there is left.
    """
    cache.release()
    if cache.broken:
        raise CacheFileError(
            "This prompt cache was interrupted where it cannot be rolled back.",
            "Save it after the next answer.",
        )
    if odd := [type(e).__name__ for e in kinds.flat(cache.target) if not known(e)]:
        raise CacheFileError(f"This model keeps a {odd[0]}, which cannot be saved.")
    arrays: dict[str, mx.array] = {}
    about = {
        "tokens": cache.tokens,
        "tail": cache.tail,
        "target": [_packed(read(entry), arrays) for entry in kinds.flat(cache.target)],
        "drafter": [_packed(entry.read(), arrays) for entry in cache.drafter],
        "snapshots": [_packed_snapshot(s, arrays) for s in cache.snapshots.all],
        "max_kv_size": cache.max_kv_size,
        "quantized_from": cache.quantized_from,
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        **cache.pair.fingerprints(),
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "cache": json.dumps(about),
    }
    _write(Path(path).resolve(), arrays, metadata)


def load(
    path: str | Path,
    pair: CachedPair,
    max_kv_size: int | None = None,
    snapshot_bytes: int | None = None,
) -> PromptCache:
    """The caches of a conversation that `save` wrote.

    Args:
        path: The file; it is left as it is, and needed no more afterwards.
        pair: Who goes on with it.
        max_kv_size: If given, it must be the file's own.
        snapshot_bytes: As in PromptCache.

    Raises:
        BrokenFileError: It is damaged.
        CacheFileError: There is no such file, it is no prompt cache, or it was made
            with another model, drafter or bound.
    """
    metadata = check(Path(path))
    _check_pair(path, metadata, pair)
    with _telling(path):
        about = json.loads(metadata["cache"])
        size = about["max_kv_size"]
        arrays = mx.load(str(path), "safetensors")
        mx.eval(list(arrays.values()))
    if max_kv_size not in (None, size):
        raise CacheFileError(
            f"{path} was made with max_kv_size {size}, not {max_kv_size}.",
            "Ask for the same, or name another file.",
        )
    cache = PromptCache(pair, size, snapshot_bytes)
    with _telling(path):
        _fill(cache, about, arrays)
    return cache


@contextmanager
def _telling(path):
    """What does not fit meanwhile is said to be the file's fault."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        raise BrokenFileError(f"{path} is broken: {error}.", ANEW) from error


def _check_pair(path, metadata, pair):
    for what, fingerprint in pair.fingerprints().items():
        if metadata.get(what) != fingerprint:
            raise CacheFileError(
                f"{path} was made with another {what}, or with other options for it.",
                f"Use it with that {what}, or name another file.",
            )


def check(path: Path) -> dict[str, str]:
    """The metadata of a prompt cache's file, once it is known to be whole.

    Raises:
        BrokenFileError: It was one, or is empty.
        CacheFileError: It cannot be read, or is no prompt cache of this format.
    """
    head = b""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            (length,) = struct.unpack("<Q", file.read(8))
            head = file.read(min(length, size))
            header = json.loads(head)
            metadata = header.pop("__metadata__", {})
    except OSError as error:
        raise CacheFileError(
            f"{path} cannot be read: {error.strerror}.", "Name another file."
        ) from error
    except (struct.error, ValueError, AttributeError) as error:
        ours = size == 0 or FORMAT.encode() in head
        told = f"{path} is broken or no prompt cache."
        raise (BrokenFileError if ours else CacheFileError)(told, ANEW) from error
    _check_format(path, metadata)
    if 8 + length + _data_bytes(path, header) != size:
        raise BrokenFileError(f"{path} is truncated, or holds more than it says.", ANEW)
    return metadata


def _check_format(path, metadata):
    if metadata.get("format") == FORMAT and metadata.get("version") == VERSION:
        return
    if metadata.get("format") == FORMAT:
        what = f"is a prompt cache of version {metadata.get('version')}, not {VERSION}"
    elif "0.tokenizer_config" in metadata or "1.0" in metadata:
        # What mlx-lm writes: [its own notes, the layers' classes, ...], flattened.
        what = (
            "was made by mlx_lm.cache_prompt and holds no token ids, so what it "
            "covers is not known"
        )
    else:
        what = "is no prompt cache"
    raise CacheFileError(f"{path} {what}.", ANEW)


def _data_bytes(path, header):
    """Bytes of all tensors behind a safetensors header that describes them rightly."""
    ends = [0]
    with _telling(path):
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            if end - begin != prod(tensor["shape"]) * SIZES[tensor["dtype"]]:
                raise ValueError("a tensor's size is not that of its shape")
            ends.append(end)
    return max(ends)


def _write(path, arrays, metadata):
    """Write a file beside `path`, read its header back, and put it in its place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.safetensors")
    try:
        mx.save_safetensors(str(beside), arrays, metadata)
        check(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError, ValueError, CacheFileError) as error:
        raise CacheFileError(
            f"{path} cannot be written: {error}".rstrip(".") + ".",
            "Name another file, or make room.",
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _packed(state: State, arrays: dict[str, mx.array]) -> dict[str, Any]:
    """A state as JSON has it; its arrays go to `arrays`, named by their numbers."""
    names = []
    for array in state.arrays:
        names.append(None if array is None else str(len(arrays)))
        if array is not None:
            arrays[names[-1]] = array
    return {"kind": state.kind, "numbers": state.numbers, "arrays": names}


def _packed_snapshot(snapshot, arrays):
    return {
        "rows": snapshot.rows,
        "target": {i: _packed(s, arrays) for i, s in snapshot.target.items()},
        "drafter": {i: _packed(s, arrays) for i, s in snapshot.drafter.items()},
    }


def _state(packed: dict[str, Any], arrays: dict[str, mx.array], like: State) -> State:
    """What `_packed` packed, if it fits a cache that holds `like`."""
    numbers = packed["numbers"]
    if packed["kind"] != like.kind:
        raise ValueError(f"a {packed['kind']} where this model has a {like.kind}")
    for name in FIXED:
        if numbers.get(name) != like.numbers.get(name):
            raise ValueError(f"{name} is {numbers.get(name)}")
    found = (None if name is None else arrays[name] for name in packed["arrays"])
    return State(packed["kind"], numbers, tuple(found))


def _fill(cache, about, arrays):
    """Put what a file says into a fresh PromptCache."""
    for packed in about["target"]:
        if packed["kind"] == "QuantizedKVCache":
            numbers = packed["numbers"]
            kinds.quantize(cache.target, numbers["bits"], numbers["group_size"], 0)
            break
    layers = list(kinds.flat(cache.target))
    # Whatever a cache holds, its kind and fixed numbers are these.
    target, drafter = [read(e) for e in layers], [e.read() for e in cache.drafter]
    for entry, packed, like in zip(layers, about["target"], target, strict=True):
        put_back(entry, _state(packed, arrays, like))
    for entry, packed, like in zip(
        cache.drafter, about["drafter"], drafter, strict=True
    ):
        entry.put_back(_state(packed, arrays, like))
    for packed in about["snapshots"]:
        parts = [
            {int(i): _state(s, arrays, like[int(i)]) for i, s in packed[part].items()}
            for part, like in (("target", target), ("drafter", drafter))
        ]
        cache.snapshots.put(Snapshot(packed["rows"], *parts))
    rows = len(about["tokens"])
    if any(type(e) is not ArraysCache and e.offset != rows for e in layers):
        raise ValueError(f"{rows} tokens are not those of its rows")
    cache.quantized_from = about["quantized_from"]
    cache.text, cache.rows = about["tokens"] + about["tail"], rows
