"""The press: turns papers/ into executed chapters, evidence and a website (`python -m book --help`)."""
