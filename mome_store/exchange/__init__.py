"""Exchange with the outside world: experts as PEFT adapters, memories as files of facts.

What is exact and what is refused is in docs/exchange.md. Imports neither torch nor transformers; making keys for an
imported group does, when it comes to that.
"""

from mome_store.exchange.groups import ExportedGroup, ImportedGroup, export_group, import_group
from mome_store.exchange.memories_jsonl import DumpReport, dump_facts, write_facts

__all__ = [
    "DumpReport",
    "ExportedGroup",
    "ImportedGroup",
    "dump_facts",
    "export_group",
    "import_group",
    "write_facts",
]
