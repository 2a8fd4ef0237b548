"""Writes a PromptCache to one safetensors file, completely or not at all, and reads it.

Owns the format: the tokens, the contents of every layer of target and drafter, the
snapshots, and the fingerprints of both models, whose rows no other model can use. The
versions of mlx and mlx-lm are recorded, but any version is read. Does not know how a
cache is used.
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
from .rollback import has_rule
from .snapshots import Snapshot
from .state import State, put_back, read

FORMAT = "dflash-mlx prompt cache"
VERSION = "1"
CREATE_AGAIN = "Create it again, or choose another file."
# Bytes per element of the dtypes that MLX writes.
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
SIZES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}
# Numbers of a cache that depend on the model only, not on the text.
FIXED = ("keep", "max_size", "chunk_size", "window")


def save(cache: PromptCache, path: str | Path) -> None:
    """Write a conversation's caches to a file, replacing an existing one.

    The snapshots are written too. They make a later /undo cheap, and templates that
    rewrite turns; their budget limits their size.

    Args:
        cache: The caches. A suspended decoding that uses them is closed.
        path: The file.

    Raises:
        CacheFileError: The cache is broken or of an unknown kind, or the file cannot be
            written. An existing file is not changed then.
    """
    cache.release()
    if cache.broken:
        raise CacheFileError(
            "This prompt cache was interrupted and cannot be rolled back.",
            "Save it after the next answer.",
        )
    layers = list(kinds.flat(cache.target))
    if unknown := [type(entry).__name__ for entry in layers if not has_rule(entry)]:
        raise CacheFileError(f"This model uses a {unknown[0]}, which cannot be saved.")
    arrays: dict[str, mx.array] = {}
    contents = {
        "tokens": cache.tokens,
        "tail": cache.tail,
        "target": [_state_to_json(read(entry), arrays) for entry in layers],
        "drafter": [_state_to_json(entry.read(), arrays) for entry in cache.drafter],
        "snapshots": [_snapshot_to_json(s, arrays) for s in cache.snapshots.all],
        "max_kv_size": cache.max_kv_size,
        "quantized_from": cache.quantized_from,
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        **cache.pair.fingerprints(),
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "cache": json.dumps(contents),
    }
    _write(Path(os.path.expanduser(path)).resolve(), arrays, metadata)


def load(
    path: str | Path,
    pair: CachedPair,
    max_kv_size: int | None = None,
    snapshot_bytes: int | None = None,
) -> PromptCache:
    """Read the caches of a conversation that `save` wrote.

    Args:
        path: The file. It may be changed or deleted afterwards.
        pair: The models that will use the caches.
        max_kv_size: If given, it has to equal the file's.
        snapshot_bytes: As in PromptCache.

    Raises:
        BrokenFileError: The file is damaged.
        CacheFileError: The file does not exist, is not a prompt cache, or was made with
            another model, drafter or max_kv_size.
    """
    path = Path(os.path.expanduser(path))
    metadata = check(path)
    _check_pair(path, metadata, pair)
    with _errors_as_broken_file(path):
        contents = json.loads(metadata["cache"])
        size = contents["max_kv_size"]
        arrays = mx.load(str(path), "safetensors")
        mx.eval(list(arrays.values()))
    if max_kv_size not in (None, size):
        raise CacheFileError(
            f"{path} was made with max_kv_size {size}, not {max_kv_size}.",
            "Use the same max_kv_size, or choose another file.",
        )
    cache = PromptCache(pair, size, snapshot_bytes)
    with _errors_as_broken_file(path):
        _fill(cache, contents, arrays)
    return cache


@contextmanager
def _errors_as_broken_file(path):
    """Raise BrokenFileError for any error that wrong contents can cause."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        raise BrokenFileError(f"{path} is broken: {error}.", CREATE_AGAIN) from error


def _check_pair(path, metadata, pair):
    for what, fingerprint in pair.fingerprints().items():
        if metadata.get(what) != fingerprint:
            raise CacheFileError(
                f"{path} was made with another {what}, or with other options for it.",
                f"Use it with that {what}, or choose another file.",
            )


def check(path: Path) -> dict[str, str]:
    """Check that a prompt cache's file is complete, and return its metadata.

    Raises:
        BrokenFileError: The file is empty, or a damaged prompt cache.
        CacheFileError: The file cannot be read, or is not a prompt cache.
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
            f"{path} cannot be read: {error.strerror}.", "Choose another file."
        ) from error
    except (struct.error, ValueError, AttributeError) as error:
        ours = size == 0 or FORMAT.encode() in head
        kind = BrokenFileError if ours else CacheFileError
        message = f"{path} is broken, or not a prompt cache."
        raise kind(message, CREATE_AGAIN) from error
    _check_format(path, metadata)
    if 8 + length + _data_bytes(path, header) != size:
        raise BrokenFileError(
            f"{path} is truncated, or has more data than its header describes.",
            CREATE_AGAIN,
        )
    return metadata


def _check_format(path, metadata):
    if metadata.get("format") == FORMAT and metadata.get("version") == VERSION:
        return
    if metadata.get("format") == FORMAT:
        theirs = metadata.get("version")
        what = f"is a prompt cache in format {theirs}; this version reads {VERSION}"
    elif "0.tokenizer_config" in metadata or "1.0" in metadata:
        # mlx-lm flattens a list: its metadata, the classes of the layers, and so on.
        what = "was made by mlx_lm.cache_prompt, which does not save the token ids"
    else:
        what = "is not a prompt cache"
    raise CacheFileError(f"{path} {what}.", CREATE_AGAIN)


def _data_bytes(path, header):
    """Bytes of all tensors, after a check of the safetensors header."""
    ends = [0]
    with _errors_as_broken_file(path):
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            if end - begin != prod(tensor["shape"]) * SIZES[tensor["dtype"]]:
                raise ValueError("the size of a tensor does not match its shape")
            ends.append(end)
    return max(ends)


def _write(path, arrays, metadata):
    """Write a temporary file, check it, and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.safetensors")
    try:
        mx.save_safetensors(str(temporary), arrays, metadata)
        check(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError, ValueError, CacheFileError) as error:
        raise CacheFileError(
            f"{path} cannot be written: {error}".rstrip(".") + ".",
            "Choose another file, or free some space.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _state_to_json(state: State, arrays: dict[str, mx.array]) -> dict[str, Any]:
    """A state as JSON. Its arrays are added to `arrays`, with numbers as names."""
    names = []
    for array in state.arrays:
        names.append(None if array is None else str(len(arrays)))
        if array is not None:
            arrays[names[-1]] = array
    return {"kind": state.kind, "numbers": state.numbers, "arrays": names}


def _snapshot_to_json(snapshot, arrays):
    return {
        "rows": snapshot.rows,
        "target": {i: _state_to_json(s, arrays) for i, s in snapshot.target.items()},
        "drafter": {i: _state_to_json(s, arrays) for i, s in snapshot.drafter.items()},
    }


def _state_from_json(
    entry: dict[str, Any], arrays: dict[str, mx.array], like: State
) -> State:
    """The inverse of `_state_to_json`, for a cache of the same kind as `like`."""
    numbers = entry["numbers"]
    if entry["kind"] != like.kind:
        raise ValueError(f"it has a {entry['kind']} where this model has a {like.kind}")
    for name in FIXED:
        if numbers.get(name) != like.numbers.get(name):
            raise ValueError(
                f"{name} is {numbers.get(name)}, not {like.numbers.get(name)}"
            )
    found = (None if name is None else arrays[name] for name in entry["arrays"])
    return State(entry["kind"], numbers, tuple(found))


def _fill(cache, contents, arrays):
    """Put the contents of a file into a new PromptCache."""
    for saved in contents["target"]:
        if saved["kind"] == "QuantizedKVCache":
            numbers = saved["numbers"]
            kinds.quantize(cache.target, numbers["bits"], numbers["group_size"], 0)
            break
    layers = list(kinds.flat(cache.target))
    # The new caches show which kinds and fixed numbers are right.
    target, drafter = [read(e) for e in layers], [e.read() for e in cache.drafter]
    for entry, saved, like in zip(layers, contents["target"], target, strict=True):
        put_back(entry, _state_from_json(saved, arrays, like))
    for entry, saved, like in zip(
        cache.drafter, contents["drafter"], drafter, strict=True
    ):
        entry.put_back(_state_from_json(saved, arrays, like))
    for saved in contents["snapshots"]:
        states = [
            {
                int(i): _state_from_json(state, arrays, like[int(i)])
                for i, state in saved[part].items()
            }
            for part, like in (("target", target), ("drafter", drafter))
        ]
        cache.snapshots.put(Snapshot(saved["rows"], *states))
    rows = len(contents["tokens"])
    if any(type(e) is not ArraysCache and e.offset != rows for e in layers):
        raise ValueError(f"it has {rows} tokens, but another number of rows")
    cache.quantized_from = contents["quantized_from"]
    cache.text, cache.rows = contents["tokens"] + contents["tail"], rows
