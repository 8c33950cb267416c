"""Starting a stage before its turn: it imports what it needs, and waits.

Imports are most of a small model's conversion, and need nothing of the stage before. So while that
one works, the next one's program is started with `--wait-for WORD`, and goes on once the volume
holds a file of that name (see docs/contract.md).
"""

from __future__ import annotations

import secrets

# The frameworks of a waiting stage take up to half a gigabyte; the rest is the working one's.
_LEAST_MEMORY = 2 << 30


def may_start_ahead(cores: int, memory: int | None) -> bool:
    """Tell whether cores and available bytes of memory (None: unknown) suffice for two stages."""
    return cores > 1 and (memory is None or memory >= _LEAST_MEMORY)


def make_word() -> str:
    """Return the name of the file that a waiting stage waits for.

    The stage that works meanwhile shares its volume, and may be a hostile model's: it cannot guess
    the name, nor see the other's command line.
    """
    return f".start-{secrets.token_hex(16)}"
