"""Find or download the folder of a model.

Owns all access to the Hugging Face Hub and its cache. A complete copy in the cache is
used without the network. Does not know which models belong together (registry.py) or
what makes a folder complete (folder.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.request import getproxies

from huggingface_hub import (
    DryRunFileInfo,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from ..errors import MissingFilesError, UnknownModelError
from .folder import OTHER_WEIGHTS, WEIGHTS, missing_files

# Patterns of the files that a model needs.
FILES = [
    "*.json",
    WEIGHTS,
    "*.py",
    "tokenizer.model",
    "*.tiktoken",
    "tiktoken.model",
    "*.txt",
    "*.jsonl",
    "*.jinja",
]
NOT_FILES = ["*/*.safetensors"]
# What is raised if the Hub gives no answer. An unusable proxy is an ImportError or a
# ValueError.
NO_ANSWER = (HTTPError, OSError, ImportError, ValueError)


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
    path = Path(os.path.expanduser(name))
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
        path = snapshot(name, revision, local_files_only=True)
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
    if HF_HUB_CACHE.startswith("~"):
        raise MissingFilesError(
            f"{name} cannot be downloaded, since this user has no home folder.",
            "Set HF_HOME to a folder for downloads.",
        )
    with translated_errors(name, revision):
        return snapshot(name, revision, tqdm_class=bars)


def snapshot(
    name: str,
    revision: str | None,
    *,
    local_files_only: bool = False,
    tqdm_class: Callable[..., tqdm] | None = None,
) -> Path:
    """The folder of a repository's files in the cache, fetched where they are missing.

    Args:
        name, revision: As in local_folder.
        local_files_only, tqdm_class: As in huggingface_hub's snapshot_download, which
            raises the errors.
    """

    def get(files: list[str]) -> Path:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=files,
            ignore_patterns=NOT_FILES,
            local_files_only=local_files_only,
            tqdm_class=tqdm_class,
        )
        return Path(folder)

    folder = get(FILES)
    return folder if any(folder.glob(WEIGHTS)) else get([*FILES, OTHER_WEIGHTS])


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

    def listed(patterns: list[str]) -> list[DryRunFileInfo]:
        return snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=NOT_FILES,
            dry_run=True,
            tqdm_class=partial(tqdm, disable=True),
        )

    try:
        files = listed(FILES)
        if not any(file.filename.endswith(".safetensors") for file in files):
            files = listed([*FILES, OTHER_WEIGHTS])
    except NO_ANSWER:
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
        raise no_answer(name, error) from None
    except (ImportError, ValueError) as error:
        if "proxy" not in str(error).lower():
            raise
        raise MissingFilesError(
            f"The proxy for {name} cannot be used: {str(error).split('. ')[0]}.",
            "Check ALL_PROXY and HTTPS_PROXY; a socks proxy needs `pip install "
            "socksio`.",
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
    if not Path(os.path.expanduser(HF_HUB_CACHE)).is_dir():
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
    cache, freed = scan_cache_dir(), 0
    for repo in cache.repos:
        if repo.repo_type == "model" and repo.repo_id in names:
            # One at a time: copies of a repository have the same commits.
            alone = replace(cache, repos=frozenset({repo}))
            strategy = alone.delete_revisions(*(r.commit_hash for r in repo.revisions))
            strategy.execute()
            freed += strategy.expected_freed_size
    return freed


def no_answer(name: str, error: Exception) -> MissingFilesError:
    """The error for a repository that is not cached and that the Hub does not send.

    Args:
        name: The repository.
        error: Of huggingface_hub; the answer of the Hub may be its cause.
    """
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    # The class is one of httpx or httpx2, by the version of huggingface_hub.
    if any(type(cause).__name__ == "ProxyError" for cause in causes):
        return MissingFilesError(
            f"{name} is not in the local cache, and the proxy does not let it through.",
            "Check HTTPS_PROXY and ALL_PROXY.",
        )
    answers = [c.response for c in causes if isinstance(c, HfHubHTTPError)]
    status = answers[0].status_code if answers else 0
    if status in REFUSALS:
        message, hint = REFUSALS[status]
    elif status >= 500:
        message = "the Hub has a fault"
        hint = "Try again later; https://status.huggingface.co shows its state."
    else:
        proxy = "Check the proxy in ALL_PROXY or HTTPS_PROXY. " if getproxies() else ""
        return MissingFilesError(
            f"{name} is not in the local cache and the Hub cannot be reached "
            f"({type(error).__name__}).",
            f"{proxy}Connect to the network, or use a folder that holds {name}.",
        )
    return MissingFilesError(
        f"{name} is not in the local cache, and {message} ({status}).", hint
    )


# What the Hub says by a status, and the next step.
REFUSALS = {
    401: (
        "the Hub does not accept your token, which may have expired",
        "Run `hf auth login`, or unset HF_TOKEN.",
    ),
    403: (
        "your token may not read it",
        "Give it that permission at https://huggingface.co/settings/tokens.",
    ),
    429: (
        "the Hub has had too many requests from you",
        "Wait some minutes; with `hf auth login` the limit is higher.",
    ),
}


def free_bytes() -> tuple[int, Path]:
    """Free bytes on the disk of the cache, and the folder of the cache."""
    folder = Path(os.path.expanduser(HF_HUB_CACHE))
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    return shutil.disk_usage(existing).free, folder
