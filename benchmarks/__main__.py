"""`python -m benchmarks`."""

import sys
from pathlib import Path

OWN = {"benchmarks", "fedlib", "book", *sys.stdlib_module_names}

try:
    from benchmarks.cli import main

    main()
except ModuleNotFoundError as error:
    name = (error.name or "").partition(".")[0]
    if not name or name in OWN:
        raise
    python = Path(sys.executable).name or "this Python"
    print(f"error: {python} lacks {name}; make setup installs everything into .venv", file=sys.stderr)
    sys.exit(2)
