"""`python -m book` is `fedbook`."""

from book.cli import main

main()
