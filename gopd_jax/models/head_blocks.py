"""How the product with the head is cut, so that no array of all tokens and all ids exists.

In: numbers of tokens and ids on one device. Out: the tokens of a chunk, and blocks of the
vocabulary.
"""

from gopd_jax.runtime.mesh import platform_in_use

# Tokens of a chunk at most, and logits of a chunk that exist at once on one device: 2^24 float32
# are 67 MB, or 1,024 tokens with 16,384 ids. On CPU they stay in the cache of the processor: with
# 151,936 ids an update takes two thirds of the time.
CHUNK_TOKENS = 1024
LOGIT_ELEMENTS = 2**24
CPU_LOGIT_ELEMENTS = 2**21
# Elements of heads that a device gathers at once: 2^24 are 8,192 ids of width 2,048, 34 MB in
# bfloat16 and 67 MB for their gradient.
GATHERED_ELEMENTS = 2**24
# A chunk is at most this share of the tokens, so that the last one, partly empty, costs little.
CHUNK_SHARE = 8


def chunk_tokens(tokens: int) -> int:
    """Tokens of a chunk, of `tokens` on one device."""
    return max(1, min(CHUNK_TOKENS, max(128, tokens // CHUNK_SHARE), tokens))


def vocabulary_blocks(
    tokens: int, vocabulary: int, models: int = 1, gathered: int = 0
) -> tuple[int, int]:
    """Ids of a block of the vocabulary, and the number of blocks, which are as equal as can be.

    Args:
        tokens: of a chunk.
        vocabulary: ids on one device.
        models: whose logits of a block exist at once.
        gathered: width of a head whose blocks are gathered; 0 for one that is there.
    """
    elements = CPU_LOGIT_ELEMENTS if platform_in_use() == "cpu" else LOGIT_ELEMENTS
    most = max(1, min(vocabulary, elements // (tokens * models)))
    if gathered:
        most = max(1, min(most, GATHERED_ELEMENTS // (gathered * models)))
    size = -(-vocabulary // -(-vocabulary // most))
    return size, -(-vocabulary // size)


def whole_chunk(tokens: int, vocabulary: int) -> int:
    """Tokens of a chunk, of `tokens`, whose logits of all ids exist at once."""
    return max(1, min(chunk_tokens(tokens), LOGIT_ELEMENTS // vocabulary))
