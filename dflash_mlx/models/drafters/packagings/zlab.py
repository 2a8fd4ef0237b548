"""z-lab's packagings of DFlash and DFlash 2. Their fields are those of config.py."""

from __future__ import annotations

from ..config import DFlash2Config, DFlashConfig
from ..config_file import ConfigFile
from .base import Packaging, has_architecture


def is_dflash(file: ConfigFile) -> bool:
    """Whether the architecture is DFlash v1's, or missing as in older copies."""
    return not file.architectures or has_architecture("DFlashDraftModel")(file)


def is_dflash2(file: ConfigFile) -> bool:
    """Whether the architecture is DFlash 2's, or DFlash v1's with a selector."""
    selector = any(file.places_of("selector_rank").values())
    named = has_architecture("DFlash2DraftModel")(file)
    return named or (is_dflash(file) and selector)


DFLASH = Packaging("z-lab DFlash", DFlashConfig, is_dflash)
DFLASH2 = Packaging("z-lab DFlash 2", DFlash2Config, is_dflash2)
