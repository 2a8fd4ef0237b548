"""Repositories to folders, offline first.

A folder is used as it is; a repository from the Hugging Face cache when all of it
is there; only then the Hub is asked.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import DryRunFileInfo, hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from ..errors import ConfigError, MissingFilesError, UnknownModelError

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


def download(
    name: str, revision: str | None = None, bars: Callable[..., tqdm] | None = None
) -> Path:
    """Fetch a repository from the Hub; files that are here stay.

    Args:
        name, revision: As in folder_of.
        bars: Makes progress bars; None is huggingface_hub's own.

    Raises:
        MissingFilesError: As in folder_of.
    """
    with refusals(name, revision):
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=FILES, tqdm_class=bars
            )
        )


@dataclass(frozen=True)
class Plan:
    """What a download would fetch, in bytes.

    Args:
        name, revision: The repository.
        total: All of it that is used.
        cached: How much of that is here.
        weights: Its weight files, here or not.
    """

    name: str
    revision: str | None
    total: int
    cached: int
    weights: int


def plan(name: str, revision: str | None = None) -> Plan | None:
    """Ask the Hub what it has, and the cache what is here; fetches nothing.

    Returns:
        None where the Hub does not say: `download` then tells why.
    """
    try:
        files = snapshot_download(
            name,
            revision=revision,
            allow_patterns=FILES,
            dry_run=True,
            tqdm_class=partial(tqdm, disable=True),
        )
    except (HTTPError, OSError):
        return None

    def size(wanted: Callable[[DryRunFileInfo], bool]) -> int:
        return sum(file.file_size or 0 for file in files if wanted(file))

    return Plan(
        name,
        revision,
        total=size(lambda file: True),
        cached=size(lambda file: not file.will_download),
        weights=size(lambda file: file.filename.endswith(".safetensors")),
    )


def fetch_file(name: str, file: str, revision: str | None = None) -> Path:
    """One small file of a repository.

    Raises:
        MissingFilesError: As in folder_of, or the repository has no such file.
    """
    with refusals(name, revision):
        try:
            return Path(
                hf_hub_download(
                    name,
                    file,
                    revision=revision,
                    tqdm_class=partial(tqdm, disable=True),
                )
            )
        except RemoteEntryNotFoundError:
            raise MissingFilesError(
                f"{name} has no {file}.", "Is this the repository of a model?"
            ) from None


@contextlib.contextmanager
def refusals(name: str, revision: str | None) -> Iterator[None]:
    """Errors of the Hub and of the disk become ours."""
    try:
        yield
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


def free_bytes() -> tuple[int, Path]:
    """Bytes that the disk of the cache has left, and where that is."""
    folder = Path(HF_HUB_CACHE).expanduser()
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    return shutil.disk_usage(there).free, folder


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
