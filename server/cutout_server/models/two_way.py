"""The two-way transformer of SAM's mask decoders, by fewer multiplications where prompts are short.

A few tokens of a prompt and the thousands of an image attend to each other. The reference projects all of the image
tokens to queries, keys and values; here the projections are multiplied into the few tokens instead, as
(W x) . q = x . (W^T q), and image tokens that are the same for all prompts are passed once. The mathematics is that of
`segment_anything.modeling.TwoWayTransformer` and its copy in `sam2`, and so are the weights.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cutout_server.models.onednn import product


class ImageTokens(NamedTuple):
    """The tokens of an image for each of N prompts, or once where all prompts have the same.

    Attributes:
        tokens: (N or 1, M, C) float.
        placed: The same with their positional encoding added.
    """

    tokens: Tensor
    placed: Tensor


def attend(transformer: Any, image: ImageTokens, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Runs a `TwoWayTransformer` in eval mode.

    Args:
        transformer: Of `segment_anything` or `sam2`.
        image: What the prompts are about.
        positions: (1, M, C) float, the positional encoding of the image's tokens.
        prompts: (N, T, C) float, the tokens of each prompt.

    Returns:
        The tokens of the prompts (N, T, C) and of the image (N, M, C).
    """
    tokens = prompts
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            query = tokens + prompts
            tokens = tokens + layer.self_attn(q=query, k=query, v=tokens)
        tokens = layer.norm1(tokens)
        tokens = layer.norm2(tokens + _look_at_image(layer.cross_attn_token_to_image, tokens + prompts, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        after = layer.norm4(_look_at_tokens(layer.cross_attn_image_to_token, image, tokens + prompts, tokens))
        image = ImageTokens(after, after + positions)
    taken = _look_at_image(transformer.final_attn_token_to_image, tokens + prompts, image)
    return transformer.norm_final_attn(tokens + taken), image.tokens


def saves_work(transformer: Any, tokens: int) -> bool:
    """Whether `attend` multiplies less than the reference, for this many tokens of each prompt.

    Each head of a token is as wide as the image's tokens here, and all heads together as the projections there.
    """
    attention = transformer.final_attn_token_to_image
    return bool(tokens * attention.num_heads <= attention.internal_dim)


def _look_at_image(attention: Any, query: Tensor, image: ImageTokens) -> Tensor:
    """What (N, T, C) tokens take from the image's: (N, T, C)."""
    # The bias of the keys adds the same to all scores of a query, which a softmax does not see.
    queries = _scaled(_heads(attention, attention.q_proj(query)))
    weights = _scores(_fold(queries, attention.k_proj.weight), image.placed).softmax(-1)
    mixed = product(weights.view(len(image.tokens), -1, weights.shape[2]), image.tokens).view(*queries.shape[:3], -1)
    projection = attention.v_proj.weight.view(*queries.shape[2:], -1)
    values = torch.einsum("nthc,hdc->nthd", mixed, projection).flatten(2) + attention.v_proj.bias
    taken: Tensor = attention.out_proj(values)
    return taken


def _look_at_tokens(attention: Any, image: ImageTokens, key: Tensor, value: Tensor) -> Tensor:
    """The image's tokens with what they take from (N, T, C) tokens: (N, M, C)."""
    keys = _scaled(_heads(attention, attention.k_proj(key)))
    bias = (keys * attention.q_proj.bias.view(keys.shape[2:])).sum(-1)
    scores = _scores(_fold(keys, attention.q_proj.weight), image.placed).add_(bias.flatten(1)[..., None])
    weights = scores.view(*keys.shape[:3], -1).softmax(1).flatten(1, 2)
    values = _fold(_heads(attention, attention.v_proj(value)), attention.out_proj.weight.T)
    # The weights of a head sum to one, so that its share of the bias comes out whole.
    values = (values + attention.out_proj.bias / attention.num_heads).flatten(1, 2)
    return product(weights.transpose(1, 2), values, image.tokens.expand(len(values), -1, -1))


def _heads(attention: Any, tokens: Tensor) -> Tensor:
    """(N, T, D) to (N, T, heads, d)."""
    return tokens.view(*tokens.shape[:2], attention.num_heads, -1)


def _scaled(heads: Tensor) -> Tensor:
    return heads / math.sqrt(heads.shape[3])


def _fold(heads: Tensor, projection: Tensor) -> Tensor:
    """(N, T, heads, d), each head by its own rows of a (heads * d, C) projection: (N, T, heads, C)."""
    return torch.einsum("nthd,hdc->nthc", heads, projection.reshape(*heads.shape[2:], -1))


def _scores(folded: Tensor, image: Tensor) -> Tensor:
    """(N, T, heads, C) times (N or 1, M, C) image tokens: (N, T * heads, M)."""
    scores = product(folded.reshape(len(image), -1, folded.shape[3]), image.transpose(1, 2))
    return scores.view(len(folded), -1, image.shape[1])
