"""Repositories to folders, offline first.

A folder is used as it is; a repository from the Hugging Face cache when all of it
is there; only then the Hub is asked.
"""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import ConfigError, MissingFilesError, UnknownModelError

FILES = [
    "*.json",
    "*.safetensors",
    "*.py",
    "tokenizer.model",
    "*.tiktoken",
    "tiktoken.model",
    "*.txt",
    "*.jsonl",
    "*.jinja",
]


def folder_of(name: str, revision: str | None = None) -> Path:
    """The local folder of a model.

    Args:
        name: A folder, or a Hub id, which is downloaded unless it is in the cache.
        revision: A branch, tag or commit of the repository.

    Raises:
        MissingFilesError: The folder is partial; the repository is missing, gated or
            out of reach.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if missing := missing_files(path):
            raise MissingFilesError(
                f"{path} lacks {missing}.", "Point to a complete folder."
            )
        return path
    cached = cached_folder(name, revision)
    return cached if cached else download(name, revision)


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The cache's copy of a repository if it is complete."""
    try:
        path = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=FILES, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UnknownModelError(
            f"{name!r} is no Hub id: {error}.",
            "`dflash-mlx models` lists the known models.",
        ) from None
    return None if missing_files(path) else path


def download(name: str, revision: str | None = None) -> Path:
    """Fetch a repository from the Hub; an interrupted download goes on."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except GatedRepoError:
        raise MissingFilesError(
            f"{name} is gated.",
            f"Accept its terms at https://huggingface.co/{name}, then `hf auth login`.",
        ) from None
    except RevisionNotFoundError:
        raise MissingFilesError(
            f"{name} has no revision {revision!r}.", "Check --revision."
        ) from None
    except RepositoryNotFoundError:
        raise MissingFilesError(
            f"There is no repository {name} on the Hub, or it is private.",
            "Check the id; for a private one run `hf auth login`.",
        ) from None
    except (LocalEntryNotFoundError, HTTPError) as error:
        raise MissingFilesError(
            f"{name} is not in the local cache and the Hub cannot be reached "
            f"({type(error).__name__}).",
            f"Connect to the network once, or give a folder that holds {name}.",
        ) from None
    except OSError as error:
        raise MissingFilesError(
            f"{name} could not be saved: {error}.", "Free some disk space and repeat."
        ) from None


def missing_files(path: Path) -> str:
    """What a model's folder lacks: config.json or weights; empty when complete."""
    if not (path / "config.json").is_file():
        return "config.json"
    gone = sorted(name for name in indexed(path) if not (path / name).is_file())
    if gone:
        return ", ".join(gone)
    return "" if any(path.glob("*.safetensors")) else "weights (*.safetensors)"


def indexed(path: Path) -> set[str]:
    """The weight files that a folder's index names; none without an index.

    Raises:
        ConfigError: The index cannot be understood.
    """
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{index} is no index of weights.", "Download it again."
        ) from None


def weight_bytes(path: Path) -> int:
    """Bytes of a folder's weight files."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
