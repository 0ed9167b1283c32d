"""``python -m support.script CODE ARGUMENTS...`` is ``python -c CODE ARGUMENTS...``, which cannot be forked."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    code = sys.argv.pop(1)
    sys.argv[0] = "-c"
    exec(code)
