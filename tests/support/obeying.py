"""``python -m support.obeying MODULE ...``: ``python -m MODULE ...`` for whom modes of files count, root as well."""

from __future__ import annotations

import ctypes
import os
import runpy
import sys

_CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, linux/capability.h
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24  # linux/prctl.h


def give_up() -> None:
    """Lose the capabilities that let root read and write what its mode forbids, for good and in every child.

    Raises
    ------
    OSError
        Whoever runs this has them, and may not give them up.
    """
    library = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of the capabilities above 31
    failed = library.capget(head, sets)
    for capability in _CAPABILITIES:
        failed = failed or library.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        for kind in range(3):
            sets[kind] &= ~(1 << capability)
    if failed or library.capset(head, sets):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    if os.geteuid() == 0:
        give_up()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
