"""Embeddings in half of their memory while they wait for prompts."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def compact(embeddings: Sequence[T]) -> list[T]:
    """The same with float32 tensors rounded to bfloat16: 8 bits of precision instead of 24, and the same range."""
    return [_map(embedding, "float32", lambda tensor: tensor.bfloat16()) for embedding in embeddings]


def expand(queries: Sequence[Any]) -> list[Any]:
    """Queries whose embeddings' tensors are float32 again; those that share an embedding share it still."""
    shared = {id(query.embedding): query.embedding for query in queries}
    whole = {key: _map(each, "bfloat16", lambda tensor: tensor.float()) for key, each in shared.items()}
    return [replace(query, embedding=whole[id(query.embedding)]) for query in queries]


def _map(embedding: T, dtype: str, change: Callable[[Any], Any]) -> T:
    """An embedding with its tensors of one dtype changed, single ones and tuples of them."""
    torch = sys.modules.get("torch")
    if torch is None or not is_dataclass(embedding) or isinstance(embedding, type):
        return embedding  # Of a model that has no tensors.

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        return change(value) if isinstance(value, torch.Tensor) and value.dtype is getattr(torch, dtype) else value

    return replace(embedding, **{field.name: changed(getattr(embedding, field.name)) for field in fields(embedding)})
