"""``python -m support.obeying MODULE ...``: ``python -m MODULE ...`` subject to file modes, even as root."""

from __future__ import annotations

import ctypes
import os
import runpy
import sys

_CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, linux/capability.h
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24  # linux/prctl.h


def give_up() -> None:
    """Drop the capabilities that let root read and write regardless of file modes, also for all children.

    Raises
    ------
    OSError
        If the process has these capabilities and may not drop them.
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
