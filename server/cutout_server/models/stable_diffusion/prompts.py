"""Words of any length to what the UNet is conditioned on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with its text encoder.

    Attributes:
        tokenizer: A `CLIPTokenizer`.
        model: A `CLIPTextModel`, or one with projection.
        penultimate: Give the last layer but one, as Stable Diffusion XL wants, and not the last.
    """

    tokenizer: Any
    model: Any
    penultimate: bool

    def parts(self, prompt: str) -> list[list[int]]:
        """The prompt's tokens in parts of 75, which with a beginning and an end fill the model's 77 places.

        Nothing is cut off, as the pipelines would do: a longer prompt has more parts.
        """
        tokenizer = self.tokenizer
        places = min(tokenizer.model_max_length, self.model.config.max_position_embeddings)
        size = places - 2
        tokens = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        parts = [tokens[start : start + size] for start in range(0, max(1, len(tokens)), size)]
        return [
            [tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (size - len(part))]
            for part in parts
        ]

    def encode(self, prompt: str, count: int) -> tuple[Tensor, Tensor | None]:
        """Encodes each part by itself and joins them, with parts of nothing behind up to `count`.

        Returns:
            (1, 77 * count, D), and (1, P) of the first part when the model has a projection.
        """
        parts = self.parts(prompt)
        parts += self.parts("") * (count - len(parts))
        # One by one: the same numbers as alone, whatever the other parts are.
        answers = [
            self.model(torch.tensor([part], device=self.model.device), output_hidden_states=True) for part in parts
        ]
        states = [answer.hidden_states[-2] if self.penultimate else answer.last_hidden_state for answer in answers]
        return torch.cat(states, dim=1), getattr(answers[0], "text_embeds", None)


def condition(encoders: Sequence[TextEncoder], prompt: str, negative: str, *, zeros: bool) -> dict[str, Tensor]:
    """The arguments of a pipeline that stand for its prompts; the shorter one is filled up with parts of nothing.

    Args:
        encoders: One, or two for Stable Diffusion XL.
        prompt: What the picture shows.
        negative: What it must not show.
        zeros: An empty `negative` is zeros and not encoded.
    """
    count = max(len(encoder.parts(words)) for encoder in encoders for words in (prompt, negative))
    embeds, pooled = _encode(encoders, prompt, count)
    others, others_pooled = _encode(encoders, negative, count)
    if zeros and not negative:
        others, others_pooled = torch.zeros_like(embeds), [torch.zeros_like(each) for each in pooled]
    arguments = {"prompt_embeds": embeds, "negative_prompt_embeds": others}
    if pooled:
        arguments |= {"pooled_prompt_embeds": pooled[0], "negative_pooled_prompt_embeds": others_pooled[0]}
    return arguments


def _encode(encoders: Sequence[TextEncoder], prompt: str, count: int) -> tuple[Tensor, list[Tensor]]:
    states, pooled = zip(*(encoder.encode(prompt, count) for encoder in encoders), strict=True)
    return torch.cat(states, dim=-1), [each for each in pooled if each is not None]
