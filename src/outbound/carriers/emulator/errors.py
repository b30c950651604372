"""What can stop the emulator from starting or from taking an instruction."""

from __future__ import annotations


class EmulatorError(ValueError):
    """A setting, a fault or the ledger file is not usable; the text says what to change."""
