"""A vocabulary head to and from its JSON object (docs/format.md, "manifest.json")."""

from typing import Any

from shard_store.generation import MAX_VOCABULARY
from shard_store.json_fields import JsonFields
from shard_store.span import Span, parse_span
from shard_store.vocabulary_head import HEAD_BITWIDTHS, VocabularyHead

MAX_HEAD_BLOCKS = 1 << 16


def parse_vocabulary_head(fields: JsonFields) -> VocabularyHead:
    """From its JSON object. Raises FormatError."""
    rows = fields.integer("rows", 1, MAX_VOCABULARY)
    block_rows, blocks = {}, {}
    for bitwidth in HEAD_BITWIDTHS:
        if fields.has(str(bitwidth)):
            block_rows[bitwidth], blocks[bitwidth] = fields.object(str(bitwidth), _parse_head_blocks)
    return VocabularyHead(rows, block_rows, blocks)


def _parse_head_blocks(fields: JsonFields) -> tuple[int, tuple[Span, ...]]:
    spans = fields.array("blocks", MAX_HEAD_BLOCKS)
    block_rows = fields.integer("block_rows", 1, MAX_VOCABULARY)
    return block_rows, tuple(parse_span(span, fields.where) for span in spans)


def vocabulary_head_document(head: VocabularyHead) -> dict[str, Any]:
    """The JSON object."""
    return {"rows": head.rows} | {
        str(bitwidth): {
            "block_rows": head.block_rows[bitwidth],
            "blocks": [[span.offset, span.nbytes, span.crc32] for span in spans],
        }
        for bitwidth, spans in head.blocks.items()
    }
