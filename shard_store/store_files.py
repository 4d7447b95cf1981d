"""The files of a store: a fixed set of plain names."""

from shard_store.geometry import BITWIDTHS

MANIFEST_FILE = "manifest.json"
RESIDENT_FILE = "resident.bin"
EMBEDDINGS_FILE = "embeddings.bin"
TEMPLATES_FILE = "templates.bin"
TOKENIZER_FILE = "tokenizer.json"
HEAD_FILE = "head.bin"  # only where there is a vocabulary to predict
SHARD_FILES = {bitwidth: f"shards-{bitwidth}.bin" for bitwidth in BITWIDTHS}
FIXED_FILES = (RESIDENT_FILE, EMBEDDINGS_FILE, TEMPLATES_FILE, TOKENIZER_FILE)
DATA_FILES = (*SHARD_FILES.values(), *FIXED_FILES, HEAD_FILE)
