"""Objects from frame to frame, as transformers' video models of SAM 2's descendants follow them: SAM 3 and EdgeTAM.

The steps are the model's own; what it would keep in its session comes with each query, and leaves with the answer. A
prompt on a frame into which the object was followed corrects it there, with a look at its memory; on any other one it
says what the object is. Objects that remember the same frames go through memory attention, decoder and memory encoder
together.
"""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from cutout_common.masks import rle_decode
from torch import Tensor, nn
from torch.nn import functional

from cutout_server.models.corners import box_and_points
from cutout_server.models.embedding import own_embedding
from cutout_server.models.memory_bank import Look, MemoryBank, alike, bank_of
from cutout_server.models.positions import Positions, take_positions
from cutout_server.models.queries import Tracked, TrackQuery
from cutout_server.models.sam2_like_embedding import Sam2LikeEmbedding
from cutout_server.types import ObjectPrompt, Rle


class Sam2LikeTracker:
    """Follows objects by the weights of a model.

    Args:
        model: An `EdgeTamVideoModel` or `Sam3TrackerVideoModel` in eval mode, on its device. Nothing of it changes
            afterwards.
        stills: The model of the same weights for pictures; what both have is taken from it. It makes no positional
            encodings any more, as pictures need none.
    """

    def __init__(self, model: Any, stills: Any) -> None:
        self._model, self._device = model, stills.device
        self._side: int = model.image_size
        self._positions = _flat(take_positions(stills))
        model.vision_encoder = None
        for name in _SHARED:
            setattr(model, name, getattr(stills, name))
        model.memory_attention = _ManyAtOnce(model.memory_attention)
        model.mask_decoder = _BestOfEach(model.mask_decoder)
        model.memory_encoder.position_encoding = Positions(model.memory_encoder.position_encoding)
        perceives = hasattr(model, "spatial_perceiver")
        if perceives:
            perceiver = model.spatial_perceiver
            perceiver.positional_encoding = Positions(perceiver.positional_encoding)
            model.spatial_perceiver = _OneByOne(perceiver)
        self._object_axis = 0 if perceives else 1  # Of the features that are remembered.
        with torch.inference_mode():
            no_mask = torch.zeros(1, 1, self._side, self._side, device=self._device)
            _, self._memory_positions = self._remembered(self._positions, no_mask, torch.ones(1), prompted=False)
        self._attended: int = model.num_maskmem - 1
        self._pointed: int = model.config.max_object_pointers_in_encoder - 1

    @property
    def nbytes(self) -> int:
        """Memory of the weights that pictures do not need, in bytes."""
        named = (*self._model.named_parameters(), *self._model.named_buffers())
        return sum(each.nbytes for name, each in named if not name.startswith(_SHARED))

    def track(self, queries: Sequence[TrackQuery]) -> list[Tracked]:
        """See `Tracker.track`."""
        answers: dict[int, Tracked] = {}
        for indices in alike(queries, self._device.type):
            answers.update(zip(indices, self._step([queries[i] for i in indices]), strict=True))
        return [answers[i] for i in range(len(queries))]

    def _step(self, queries: Sequence[TrackQuery]) -> Iterator[Tracked]:
        query, banks = queries[0], [bank_of(query) for query in queries]
        embedding = own_embedding(query.embedding, Sam2LikeEmbedding)
        begins = query.prompt is not None and query.frame not in banks[0].followed
        if query.prompt is None and not banks[0].prompted:
            raise ValueError("an object that no prompt has said anything of cannot be followed")
        levels = [level.expand(len(queries), -1, -1, -1) for level in embedding.levels]
        if isinstance(query.prompt, Rle):  # The model takes one at a time.
            each = [
                self._model._use_mask_as_output(levels[-1][:1], [level[:1] for level in levels[:-1]], mask)  # noqa: SLF001
                for mask in self._masks(queries)
            ]
            logits, full, pointers, presence, scores = (
                torch.cat([getattr(one, name) for one in each]) for name in _OUTPUTS
            )
        else:
            output = self._decoded(queries, banks, levels, embedding.image_size, begins=begins)
            logits, full, pointers, presence, scores = (getattr(output, name) for name in _OUTPUTS)
        remembered, _ = self._remembered(_flat(levels[-1]), full, presence, prompted=query.prompt is not None)
        best, probabilities = scores.flatten(1).amax(-1).tolist(), presence.flatten().sigmoid().tolist()
        features = torch.split(remembered, 1, self._object_axis)
        low_res = logits[:, 0].float().cpu().numpy()
        for i, (one, bank) in enumerate(zip(queries, banks, strict=True)):
            look = Look(features[i].clone(), pointers[i].reshape(1, -1).clone(), None)
            kept = bank.with_look(one.frame, look, prompted=begins)
            yield Tracked(
                logits=low_res[i].copy(),
                predicted_iou=best[i],
                presence=probabilities[i],
                memory=kept.trimmed(one, self._attended, self._pointed),
            )

    def _decoded(
        self,
        queries: Sequence[TrackQuery],
        banks: Sequence[MemoryBank],
        levels: Sequence[Tensor],
        size: tuple[int, int],
        *,
        begins: bool,
    ) -> Any:
        query = queries[0]
        points = self._points(queries, size) if query.prompt is not None else {}
        outputs = {
            "cond_frame_outputs": self._outputs([bank.prompted for bank in banks]),
            "non_cond_frame_outputs": self._outputs([bank.followed for bank in banks]),
        }
        conditioned = self._model._prepare_memory_conditioned_features(  # noqa: SLF001
            inference_session=SimpleNamespace(output_dict_per_obj=[outputs], dtype=torch.float32),
            frame_idx=query.frame,
            obj_idx=0,
            is_initial_conditioning_frame=begins,
            current_vision_features=_flat(levels[-1]),
            current_vision_positional_embeddings=self._positions.expand(-1, len(queries), -1),
            num_total_frames=query.frames,
            track_in_reverse_time=query.reverse,
            streaming=query.frames is None,
        )
        return self._model._single_frame_forward(  # noqa: SLF001
            input_points=points.get("point_coords"),
            input_labels=points.get("point_labels"),
            image_embeddings=[*levels[:-1], conditioned],
            multimask_output=False,
            choose=self._model._use_multimask(begins, points or None),  # noqa: SLF001
        )

    def _remembered(
        self, features: Tensor, masks: Tensor, presence: Tensor, *, prompted: bool
    ) -> tuple[Tensor, Tensor]:
        """What is to be remembered of a frame with objects, and its positional encoding."""
        encoded: tuple[Tensor, Tensor] = self._model._encode_new_memory(  # noqa: SLF001
            features, masks, presence.reshape(-1, 1, 1).to(self._device), is_mask_from_pts=prompted
        )
        return encoded

    def _points(self, queries: Sequence[TrackQuery], size: tuple[int, int]) -> dict[str, Tensor]:
        coords, labels = box_and_points([query.prompt for query in queries if isinstance(query.prompt, ObjectPrompt)])
        # As the processors do: in float32, by factors that were divided in float64.
        scale = torch.tensor([self._side / size[1], self._side / size[0]], dtype=torch.float32)
        return {
            "point_coords": (torch.from_numpy(coords) * scale)[:, None].to(self._device),
            "point_labels": torch.from_numpy(labels)[:, None].to(self._device),
        }

    def _outputs(self, banks: Sequence[Any]) -> dict[int, dict[str, Tensor | None]]:
        """What the objects remember of each frame, as the model keeps it for one; they remember the same frames."""
        shape = [-1] * self._memory_positions.ndim
        shape[self._object_axis] = len(banks)
        positions, outputs = self._memory_positions.expand(shape), {}
        for frame in banks[0]:
            looks: list[Look] = [bank[frame] for bank in banks]
            features = [look.features for look in looks if look.features is not None]
            outputs[frame] = {
                "maskmem_features": torch.cat(features, self._object_axis).to(self._device) if features else None,
                "maskmem_pos_enc": positions,
                "object_pointer": torch.cat([look.pointer for look in looks]).to(self._device),
            }
        return outputs

    def _masks(self, queries: Sequence[TrackQuery]) -> Iterator[Tensor]:
        """(1, 1, side, side) float32 of 0 and 1 each."""
        for query in queries:
            assert isinstance(query.prompt, Rle)  # noqa: S101 - all are of one form
            whole = rle_decode(query.prompt.height, query.prompt.width, query.prompt.counts)
            mask = torch.from_numpy(np.ascontiguousarray(whole))[None, None].to(self._device).float()
            size = (self._side, self._side)
            if mask.shape[-2:] != size:
                mask = (functional.interpolate(mask, size, mode="bilinear", antialias=True) >= 0.5).float()
            yield mask


_SHARED = ("shared_image_embedding", "prompt_encoder", "mask_decoder", "no_memory_embedding")
_OUTPUTS = ("pred_masks", "high_res_masks", "object_pointer", "object_score_logits", "iou_scores")


def _flat(level: Tensor) -> Tensor:
    """(N, C, h, w) to (h * w, N, C)."""
    return level.flatten(2).permute(2, 0, 1)


class _ManyAtOnce(nn.Module):
    """Memory attention whose answer for several objects has the form that the model expects of it for one."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, **arguments: Any) -> Tensor:
        """(N, h * w, C)."""
        answer: Tensor = self.attention(**arguments)
        return answer[0]


class _BestOfEach(nn.Module):
    """A mask decoder that chooses among the masks of each object itself; the model's own choice is made for one."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *, multimask_output: bool, choose: bool = False, **arguments: Any) -> tuple[Tensor, ...]:
        """(N, 1, M, h, w) logits, (N, 1, M) scores, (N, 1, M, C) tokens, (N, 1, 1) presence; M is 1 if it chooses."""
        *choices, presence = self.decoder(multimask_output=multimask_output or choose, **arguments)
        if choose:
            rows, best = torch.arange(len(presence), device=presence.device), choices[1][:, 0].argmax(-1)
            choices = [each[rows, :, best][:, :, None] for each in choices]
        return (*choices, presence)


class _OneByOne(nn.Module):
    """EdgeTAM's perceiver, which takes one object at a time."""

    def __init__(self, perceiver: Any) -> None:
        super().__init__()
        self.perceiver = perceiver

    def forward(self, features: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """(N, L, C) latents and their positional encoding."""
        rows = zip(torch.split(features, 1), torch.split(positions, 1), strict=True)
        return tuple(torch.cat(each) for each in zip(*(self.perceiver(*row) for row in rows), strict=True))
