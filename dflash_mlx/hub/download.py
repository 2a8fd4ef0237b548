"""Find or download the folder of a model.

Owns all access to the Hugging Face Hub and its cache. A complete copy in the cache is
used without the network. Does not know which models belong together (registry.py).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import (
    DryRunFileInfo,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)
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

# Patterns of the files that a model needs.
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


def local_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model, downloaded if it is not in the cache.

    Args:
        name: A folder or a Hub id.
        revision: A branch, tag or commit of the repository.

    Raises:
        MissingFilesError: The folder is incomplete, or the repository is missing, gated
            or cannot be reached.
        UnknownModelError: `name` is not a valid Hub id.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if missing := missing_files(path):
            raise MissingFilesError(
                f"{path} lacks {missing}.", "Choose a complete folder."
            )
        return path
    cached = cached_folder(name, revision)
    return cached if cached else download(name, revision)


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a repository in the cache, or None unless it is complete.

    Raises:
        UnknownModelError: `name` is not a valid Hub id.
    """
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
            f"{name!r} is not a valid Hub id: {error}.",
            "`dflash-mlx models` lists the known models.",
        ) from None
    return None if missing_files(path) else path


def download(
    name: str, revision: str | None = None, bars: Callable[..., tqdm] | None = None
) -> Path:
    """Download the files of a repository that the cache lacks.

    Args:
        name, revision: As in local_folder.
        bars: Class of the progress bars; None is huggingface_hub's own.

    Returns:
        The folder in the cache.

    Raises:
        MissingFilesError: As in local_folder.
    """
    with translated_errors(name, revision):
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=FILES, tqdm_class=bars
            )
        )


@dataclass(frozen=True)
class Plan:
    """The sizes of a download, in bytes.

    Args:
        name, revision: The repository.
        total: All files that are used.
        cached: Of these, the files in the cache.
        weights: The weight files, cached or not.
    """

    name: str
    revision: str | None
    total: int
    cached: int
    weights: int


def plan(name: str, revision: str | None = None) -> Plan | None:
    """Get the sizes of a download from the Hub, without downloading.

    Args:
        name, revision: As in local_folder.

    Returns:
        The sizes, or None after an error of the Hub, which `download` would raise.
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

    def size(counts: Callable[[DryRunFileInfo], bool]) -> int:
        return sum(file.file_size or 0 for file in files if counts(file))

    return Plan(
        name,
        revision,
        total=size(lambda file: True),
        cached=size(lambda file: not file.will_download),
        weights=size(lambda file: file.filename.endswith(".safetensors")),
    )


def fetch_file(name: str, file: str, revision: str | None = None) -> Path:
    """Download one small file of a repository.

    Args:
        name, revision: As in local_folder.
        file: The name of the file.

    Returns:
        The file in the cache.

    Raises:
        MissingFilesError: As in local_folder, or the repository does not have the file.
    """
    with translated_errors(name, revision):
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
                f"{name} has no {file}.", "Check that it is the repository of a model."
            ) from None


@contextlib.contextmanager
def translated_errors(name: str, revision: str | None) -> Iterator[None]:
    """Raise errors of the Hub and of the disk as MissingFilesError."""
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
            f"Connect to the network, or use a folder that holds {name}.",
        ) from None
    except OSError as error:
        raise MissingFilesError(
            f"{name} could not be saved: {error}.",
            "Free some disk space and try again.",
        ) from None


def cached_repositories(names: Collection[str]) -> dict[str, int]:
    """Bytes on the disk of the repositories that are in the cache, complete or not.

    Args:
        names: Hub ids.
    """
    if not Path(HF_HUB_CACHE).expanduser().is_dir():
        return {}
    repos = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    return {
        repo.repo_id: repo.size_on_disk
        for repo in repos
        if repo.repo_type == "model" and repo.repo_id in names
    }


def remove_repositories(names: Collection[str]) -> int:
    """Remove repositories from the cache; the bytes that this frees.

    Args:
        names: Hub ids, each in the cache.
    """
    cache = scan_cache_dir()
    revisions = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_type == "model" and repo.repo_id in names
        for revision in repo.revisions
    ]
    strategy = cache.delete_revisions(*revisions)
    strategy.execute()
    return strategy.expected_freed_size


def free_bytes() -> tuple[int, Path]:
    """Free bytes on the disk of the cache, and the folder of the cache."""
    folder = Path(HF_HUB_CACHE).expanduser()
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    return shutil.disk_usage(existing).free, folder


def missing_files(path: Path) -> str:
    """The files that a model's folder lacks, as text; empty if it is complete.

    Raises:
        ConfigError: As in indexed_files.
    """
    if not (path / "config.json").is_file():
        return "config.json"
    missing = [name for name in indexed_files(path) if not (path / name).is_file()]
    if missing:
        return ", ".join(sorted(missing))
    return "" if any(path.glob("*.safetensors")) else "weights (*.safetensors)"


def indexed_files(path: Path) -> set[str]:
    """The weight files listed in a folder's index; empty without an index.

    Raises:
        ConfigError: The index is not valid.
    """
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{index} is not a valid index of weights.", "Download it again."
        ) from None


def weight_bytes(path: Path) -> int:
    """Size in bytes of a folder's weight files."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
