"""The press: turns papers/ into executed chapters, evidence and a website (`python -m book --help`)."""

import sys

# jsonschema, which nbformat imports, builds a grammar of IRIs with it: three seconds in every process, and no schema of
# a notebook asks for IRIs. jsonschema does without what cannot be imported.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
