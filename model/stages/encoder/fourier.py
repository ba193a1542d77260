"""A filter over the kept behaviors in the frequency domain, and a feed-forward network (MIRRN)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.stages.options import integer
from model.stages.protocols import Kept
from model.stages.registry import Parts, register


class Fourier(nn.Module):
    """y = irfft(W * rfft(e)) along the K slots of each segment, then y + W_2 GELU(W_1 y); zeros where not valid.

    W is complex, [K // 2 + 1] for each segment and coordinate; the transforms are products with constant matrices, [real ; imaginary]
    frequencies stacked. It starts as the identity. Args: `width` R; `segments` of equal size that the slots fall into; `slots` K of each;
    `hidden` of the network.
    """

    def __init__(self, width: int, segments: int, slots: int, hidden: int) -> None:
        super().__init__()
        self.segments, self.slots = segments, slots
        frequency_F1 = torch.arange(slots // 2 + 1, dtype=torch.float64)[:, None]
        angle_FK = 2 * math.pi / slots * (frequency_F1 * torch.arange(slots) % slots)
        # Of a real sequence every frequency but 0 and slots / 2 stands for its mirror too.
        weight_F1 = (2 - ((frequency_F1 == 0) | (2 * frequency_F1 == slots)).double()) / slots
        self.there: Tensor
        self.back: Tensor
        self.register_buffer("there", torch.cat([angle_FK.cos(), -angle_FK.sin()]), persistent=False)
        self.register_buffer("back", torch.cat([weight_F1 * angle_FK.cos(), -weight_F1 * angle_FK.sin()]).T, persistent=False)
        identity = torch.stack([torch.ones(segments, len(frequency_F1), width), torch.zeros(segments, len(frequency_F1), width)])
        self.filter = nn.Parameter(identity)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        for value in self.feed_forward[2].parameters():
            nn.init.zeros_(value)

    def forward(self, content_MKR: Tensor, target_MR: Tensor, kept: Kept) -> Tensor:
        size, width = content_MKR.shape[1], content_MKR.shape[2]
        per_segment = size // self.segments
        if per_segment * self.segments != size or per_segment > self.slots:
            raise ValueError(f"{size} kept slots do not fall into {self.segments} segments of {self.slots}")
        content_MSKR = content_MKR.view(-1, self.segments, per_segment, width)
        if per_segment < self.slots:  # a history shorter than K
            content_MSKR = functional.pad(content_MSKR, (0, 0, 0, self.slots - per_segment))
        there, back = self.there.to(content_MKR.dtype), self.back.to(content_MKR.dtype)
        real, imaginary = (there @ content_MSKR).chunk(2, dim=2)
        of_real, of_imaginary = self.filter[0], self.filter[1]
        filtered = torch.cat([real * of_real - imaginary * of_imaginary, real * of_imaginary + imaginary * of_real], dim=2)
        mixed_MKR = (back @ filtered)[:, :, :per_segment].reshape(-1, size, width)
        found: Tensor = (mixed_MKR + self.feed_forward(mixed_MKR)) * kept.valid_MK[:, :, None]
        return found


@register("encoder", "fourier", "MIRRN (arXiv 2411.15005)")
@dataclass(frozen=True, slots=True)
class FourierConfig:
    """`segments` that the kept fall into, each of the model's K and filtered apart; `hidden` of the feed-forward network."""

    segments: int = 3
    hidden: int = 64

    def __post_init__(self) -> None:
        integer("segments", self.segments, 1, 64)
        integer("hidden", self.hidden, 1, 4096)

    def build(self, parts: Parts) -> Fourier:
        """The stage."""
        return Fourier(parts.width, self.segments, parts.config.kept, self.hidden)
