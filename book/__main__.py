"""`python -m book` is `fedbook`."""

import sys

try:
    from book.cli import main

    main()
except KeyboardInterrupt:  # while Python was still reading modules
    sys.exit(130)
