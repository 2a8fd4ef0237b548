"""The emulator's error."""


class EmulatorError(RuntimeError):
    """A kernel that Metal would reject, that has undefined behaviour, or that cannot be
    emulated."""
