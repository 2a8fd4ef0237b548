"""The one error of the emulator."""


class EmulatorError(RuntimeError):
    """A kernel that Metal would refuse, that does what it must not, or that cannot
    be emulated."""
