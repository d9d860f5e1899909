"""Objects from frame to frame, as `SAM2VideoPredictor` follows them, but that all it remembers is in its answers.

The steps are those of the predictor on `SAM2Base`. A prompt on a frame that was not looked at yet says what the object
is, without a look at its memory; on one that was it corrects the mask that it got there. Objects that remember the same
frames go through memory attention, decoder and memory encoder together: each is by itself there, as in the predictor.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from cutout_common.masks import rle_decode
from torch import Tensor
from torch.nn import functional

from cutout_server.models.corners import box_and_points
from cutout_server.models.embedding import own_embedding
from cutout_server.models.memory_bank import Look, alike, bank_of
from cutout_server.models.queries import Tracked, TrackQuery
from cutout_server.models.sam2.embedding import Sam2Embedding
from cutout_server.types import ObjectPrompt, Rle

_LOGIT = 32.0  # The predictor clamps the logits that it corrects.


class Sam2Tracker:
    """Follows objects by the weights of a model.

    Args:
        model: A `SAM2Base` in eval mode, on its device. Nothing of it changes afterwards.
        positions: (1, C, 64, 64) float32, the positional encoding of a frame's tokens.
    """

    def __init__(self, model: Any, positions: Tensor) -> None:
        # It would compare the objects of a call, which is whoever waits; the predictor asks for one at a time.
        model.non_overlap_masks_for_mem_enc = False
        self._model = model
        self._device: torch.device = model.device
        side = model.sam_image_embedding_size
        self._grid = (side, side)
        self._positions = positions.to(self._device)
        memory = torch.zeros(1, model.mem_dim, side, side, device=self._device)
        self._memory_positions: Tensor = model.memory_encoder.position_encoding(memory)
        self._attended: int = (model.num_maskmem - 1) * model.memory_temporal_stride_for_eval
        self._pointed: int = model.max_obj_ptrs_in_encoder - 1 if model.use_obj_ptrs_in_encoder else 0

    def track(self, queries: Sequence[TrackQuery]) -> list[Tracked]:
        """See `Tracker.track`."""
        answers: dict[int, Tracked] = {}
        for indices in alike(queries, self._device.type):
            answers.update(zip(indices, self._step([queries[i] for i in indices]), strict=True))
        return [answers[i] for i in range(len(queries))]

    def _step(self, queries: Sequence[TrackQuery]) -> Iterator[Tracked]:
        model, frame, first = self._model, queries[0].frame, queries[0].prompt
        embedding = own_embedding(queries[0].embedding, Sam2Embedding)
        memories = [bank_of(query) for query in queries]
        seen = [memory.at(frame) for memory in memories]
        begins = first is not None and seen[0] is None
        if first is None and not memories[0].prompted:
            raise ValueError("an object that no prompt has said anything of cannot be followed")
        levels = (*embedding.high_res_feats, embedding.features)
        features = [level.expand(len(queries), -1, -1, -1).flatten(2).permute(2, 0, 1) for level in levels]
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        by_points = isinstance(first, ObjectPrompt)
        _, decoded, _, _ = model._track_step(  # noqa: SLF001 - track_step keeps the predicted IoU to itself
            frame_idx=frame,
            is_init_cond_frame=begins,
            current_vision_feats=features,
            current_vision_pos_embeds=[self._positions.expand(len(queries), -1, -1, -1).flatten(2).permute(2, 0, 1)],
            feat_sizes=sizes,
            point_inputs=self._points(queries, embedding.image_size) if by_points else None,
            mask_inputs=None if first is None or by_points else self._masks(queries),
            output_dict={
                "cond_frame_outputs": self._outputs([memory.prompted for memory in memories]),
                "non_cond_frame_outputs": self._outputs([memory.followed for memory in memories]),
            },
            num_frames=queries[0].frames or sys.maxsize,
            track_in_reverse=queries[0].reverse,
            prev_sam_mask_logits=self._earlier(seen) if by_points else None,
        )
        _, _, predicted_iou, logits, full, pointers, presence = decoded
        if first is not None:  # A mask that was given is finer than what is kept of it.
            full = functional.interpolate(logits, (model.image_size, model.image_size), mode="bilinear")
        remembered, _ = model._encode_new_memory(  # noqa: SLF001
            features, sizes, full, presence, is_mask_from_pts=first is not None
        )
        remembered = remembered.to(torch.bfloat16)
        scores, probabilities = predicted_iou.amax(-1).tolist(), presence.flatten().sigmoid().tolist()
        low_res = logits[:, 0].float().cpu().numpy()
        for i, (query, memory) in enumerate(zip(queries, memories, strict=True)):
            look = Look(*(each[i : i + 1].clone() for each in (remembered, pointers, logits)))
            kept = memory.with_look(frame, look, prompted=begins)
            yield Tracked(
                logits=low_res[i].copy(),
                predicted_iou=scores[i],
                presence=probabilities[i],
                memory=kept.trimmed(query, self._attended, self._pointed),
            )

    def _outputs(self, banks: Sequence[Any]) -> dict[int, dict[str, Any]]:
        """What the objects remember of each frame, as the predictor keeps it for one; they remember the same frames."""
        positions = [self._memory_positions.expand(len(banks), -1, -1, -1)]
        outputs = {}
        for frame in banks[0]:
            looks: list[Look] = [bank[frame] for bank in banks]
            features = [look.features for look in looks if look.features is not None]
            outputs[frame] = {
                "maskmem_features": torch.cat(features).to(self._device).float() if features else None,
                "maskmem_pos_enc": positions,
                "obj_ptr": torch.cat([look.pointer for look in looks]).to(self._device),
            }
        return outputs

    def _points(self, queries: Sequence[TrackQuery], size: tuple[int, int]) -> dict[str, Tensor]:
        coords, labels = box_and_points([query.prompt for query in queries if isinstance(query.prompt, ObjectPrompt)])
        scale = torch.tensor([size[1], size[0]])
        scaled = (torch.from_numpy(coords) / scale) * self._model.image_size
        return {
            "point_coords": scaled.to(self._device),
            "point_labels": torch.from_numpy(labels).to(self._device),
        }

    def _masks(self, queries: Sequence[TrackQuery]) -> Tensor:
        """(N, 1, side, side) float32 of 0 and 1."""
        side = self._model.image_size
        given = []
        for query in queries:
            assert isinstance(query.prompt, Rle)  # noqa: S101 - all are of one form
            whole = rle_decode(query.prompt.height, query.prompt.width, query.prompt.counts)
            mask = torch.from_numpy(np.ascontiguousarray(whole))[None, None].to(self._device).float()
            if mask.shape[-2:] != (side, side):
                mask = functional.interpolate(mask, (side, side), mode="bilinear", antialias=True)
                mask = (mask >= 0.5).float()
            given.append(mask)
        return torch.cat(given)

    def _earlier(self, seen: Sequence[Look | None]) -> Tensor | None:
        """(N, 1, 256, 256) float32 of the masks that are corrected."""
        logits = [look.logits for look in seen if look is not None and look.logits is not None]
        return torch.cat(logits).to(self._device).clamp(-_LOGIT, _LOGIT) if logits else None
