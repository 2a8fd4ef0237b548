"""Read a target's model, tokenizer and adapters with mlx-lm.

Owns the sentences for what mlx-lm raises about files. Does not know drafters or the
Hub.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_model, load_tokenizer, quantize_model
from transformers import AutoTokenizer

from .errors import (
    ConfigError,
    DFlashError,
    MissingFilesError,
    OptionError,
    WeightsError,
)
from .hub.config import HINT
from .models.drafters.weights import join_names

# What mlx-lm raises while it builds a model from a config.json that lacks a field, or
# has a value that does not fit.
CONFIG_ERRORS = (
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    NotImplementedError,
)


def load_target(
    folder: Path, config: dict[str, Any], bits: int | None, trust_remote_code: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model with mlx-lm.

    Args:
        folder: The model's folder.
        config: Its config.json.
        bits: Bits to quantize to after loading, or None.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The model, and its config with the quantization.

    Raises:
        DFlashError: An error of mlx-lm, in one sentence.
    """
    try:
        with without_brackets(folder) as path:
            model, config = load_model(path, trust_remote_code=trust_remote_code)
    except FileNotFoundError as error:
        raise MissingFilesError(f"{folder}: {error}.", "Download it again.") from None
    except CONFIG_ERRORS as error:
        raise config_error(folder, config, error) from error
    except ValueError as error:
        first, *names = str(error).splitlines()
        detail = f" {join_names([n.strip(' ,.') for n in names])}" if names else ""
        raise WeightsError(f"{folder}: {first.rstrip('.:')}{detail}.") from None
    except RuntimeError as error:
        raise WeightsError(
            f"{folder} has a file that cannot be read: {error}.", "Download it again."
        ) from None
    if bits:
        if config.get("quantization"):
            raise OptionError(
                f"{folder} is already quantized.", "Leave --quantize out."
            )
        # mlx-lm prints a line on stdout, which is reserved for the answer.
        with contextlib.redirect_stdout(sys.stderr):
            model, config = quantize_model(model, config, group_size=64, bits=bits)
        mx.eval(model.parameters())
    return model, config


@contextlib.contextmanager
def without_brackets(folder: Path) -> Iterator[Path]:
    """A path of a folder that has no character with a meaning in patterns of files.

    mlx-lm looks for weights by a pattern that begins with the folder's path.
    """
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as other:
        link = Path(other) / "model"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link


def config_error(folder: Path, config: dict[str, Any], error: Exception) -> DFlashError:
    """The error for a field that mlx-lm needs and that is missing or of a wrong type.

    Args:
        folder: The model's folder.
        config: Its config.json.
        error: What mlx-lm raised while it built the model.
    """
    file = folder / "config.json"
    if isinstance(error, KeyError):
        name = str(error.args[0]) if error.args else ""
        if "." in name:  # the name of a tensor
            return WeightsError(f"{folder} has no {name}.", "Download it again.")
        other = folder / "hf_quant_config.json"
        if name == "quant_method" and "quantization_config" not in config:
            file = other if other.is_file() else file
        return ConfigError(f"{file} has no {name}, which mlx-lm needs.", HINT)
    names = re.findall(r"'(\w+)'", str(error))
    if "missing" in str(error) and "required" in str(error) and names:
        return ConfigError(f"{file} has no {', '.join(names)}.", HINT)
    return ConfigError(f"{file} has a value that mlx-lm refuses: {error}.", HINT)


def read_tokenizer(
    folder: Path, config: dict[str, Any], trust_remote_code: bool
) -> TokenizerWrapper:
    """Load the tokenizer in a model's folder with mlx-lm.

    Args:
        folder: The model's folder.
        config: Its config.json, for the ids that end a text.
        trust_remote_code: Run code that comes with the tokenizer.

    Raises:
        MissingFilesError: The folder has no tokenizer.
        ConfigError: The tokenizer cannot be read.
    """
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    if not any((folder / n).is_file() for n in names) and not any(
        folder.glob("*.tiktoken")
    ):
        raise MissingFilesError(f"{folder} has no tokenizer.", "Download it again.")
    ends = config.get("eos_token_id")
    options = {"trust_remote_code": trust_remote_code}
    try:
        try:
            return load_tokenizer(folder, options, eos_token_ids=ends)
        except AttributeError:
            # mlx-lm's detokenizer of SentencePiece fails if an id has no token. Ours
            # (text/detokenizer.py) does not.
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            return TokenizerWrapper(
                tokenizer, eos_token_ids=[ends] if isinstance(ends, int) else ends
            )
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ConfigError(
            f"The tokenizer in {folder} cannot be read: {error}."
        ) from error


def apply_adapters(model: nn.Module, adapter_path: str | Path) -> nn.Module:
    """Add LoRA adapters to a model, in place.

    Raises:
        MissingFilesError: The folder has no adapters.
        WeightsError: The adapters do not fit the model.
    """
    adapter_path = os.path.expanduser(adapter_path)
    file = Path(adapter_path) / "adapter_config.json"
    if not file.is_file():
        raise MissingFilesError(
            f"{adapter_path} has no adapter_config.json.",
            "Set --adapter-path to a folder that mlx_lm.lora wrote.",
        )
    if '"peft_type"' in file.read_text(errors="replace"):
        raise WeightsError(
            f"{adapter_path} holds an adapter of the library PEFT, which mlx-lm cannot "
            "read.",
            "Merge it into its model with PEFT's merge_and_unload, and use that folder "
            "as --model; or train with mlx_lm.lora.",
        )
    try:
        model = load_adapters(model, adapter_path)
    except (ValueError, KeyError, AttributeError, RuntimeError, OSError) as error:
        raise WeightsError(
            f"The adapters in {adapter_path} cannot be loaded: {error!r}."
        ) from error
    model.eval()
    return model
