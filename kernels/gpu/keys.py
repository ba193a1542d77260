"""`RaggedKeys`: the attention keys of several users side by side, in the number format that defines the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gpu import MAX_WIDTH

KEY_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


@dataclass(frozen=True, slots=True, eq=False)
class RaggedKeys:
    """Keys of U users, each oldest first, one user after the other.

    Args:
        key_MA: [M, A] of float32, bfloat16, float16 or int8. As given they define the scores: search is exact for these keys.
        start_U1: int32 [U + 1] on the same device, rising from 0; user u has the rows start[u]..start[u + 1] - 1. Rows past the last
            start are never read, so a larger buffer may be filled later.
        longest: no user has more behaviors than this. It sizes the launch, so a captured graph stays right while it holds.
        scale_UA: float32 [U, A], exactly for int8: key a of user u means `key * scale[u, a]`.
    Raises: ValueError naming the argument and the value.
    """

    key_MA: Tensor
    start_U1: Tensor
    longest: int
    scale_UA: Tensor | None = None

    def __post_init__(self) -> None:
        if self.key_MA.dtype not in KEY_DTYPES:
            raise ValueError(f"key_MA must be one of {', '.join(map(str, KEY_DTYPES))}, got {self.key_MA.dtype}")
        tensor("key_MA", self.key_MA, self.key_MA.dtype, (None, None), self.key_MA.device)
        if not 1 <= self.width <= MAX_WIDTH:
            raise ValueError(f"key_MA must be 1..{MAX_WIDTH} wide, got {self.width}")
        tensor("start_U1", self.start_U1, torch.int32, (None,), self.device)
        if len(self.start_U1) < 2:
            raise ValueError(f"start_U1 must have at least 2 entries, got {len(self.start_U1)}")
        if not 0 <= self.longest <= len(self.key_MA):
            raise ValueError(f"longest must be in 0..{len(self.key_MA)}, the rows of key_MA, got {self.longest}")
        if (self.scale_UA is not None) != (self.key_MA.dtype == torch.int8):
            raise ValueError(f"scale_UA belongs to int8 keys and to no others, got keys of {self.key_MA.dtype}")
        if self.scale_UA is not None:
            tensor("scale_UA", self.scale_UA, torch.float32, (self.users, self.width), self.device)

    @property
    def users(self) -> int:
        """U."""
        return len(self.start_U1) - 1

    @property
    def width(self) -> int:
        """A."""
        return int(self.key_MA.shape[1])

    @property
    def device(self) -> torch.device:
        """Where every tensor of a search must be."""
        return self.key_MA.device

    def dequantised(self) -> Tensor:
        """The keys that the scores are defined by, float32 [M, A]; rows past the last start keep scale 1."""
        if self.scale_UA is None:
            return self.key_MA.float()
        start = self.start_U1.long()
        rows = torch.zeros(len(self.key_MA), dtype=torch.long, device=self.device)
        user = torch.arange(self.users, device=self.device).repeat_interleave(start.diff())
        rows[: len(user)] = user
        return self.key_MA.float() * self.scale_UA[rows]


def ragged_keys(attn_behavior_MA: Tensor, lengths: list[int], dtype: torch.dtype = torch.float32) -> RaggedKeys:
    """Keys of several users in `dtype`. Reads the device and waits for it: prepare keys outside the captured part.

    Args:
        attn_behavior_MA: float32 [M, A], finite, users one after the other. lengths: behaviors of each user, summing to M.
        dtype: float32, bfloat16, float16, or int8: rounded to nearest with one scale per user and dimension, |largest| / 127.
    Raises: ValueError naming the argument and the value; also where a key is not finite in `dtype`.
    """
    tensor("attn_behavior_MA", attn_behavior_MA, torch.float32, (None, None), attn_behavior_MA.device)
    if not lengths or min(lengths) < 0 or sum(lengths) != len(attn_behavior_MA):
        raise ValueError(f"lengths must be at least 0 and sum to {len(attn_behavior_MA)}, got {lengths[:8]} summing to {sum(lengths)}")
    finite("attn_behavior_MA", attn_behavior_MA)
    start = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32).to(attn_behavior_MA.device)
    if dtype != torch.int8:
        if dtype not in KEY_DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, KEY_DTYPES))}, got {dtype}")
        key = attn_behavior_MA.to(dtype)
        finite(f"attn_behavior_MA in {dtype}", key)
        return RaggedKeys(key, start, max(lengths))
    parts = torch.split(attn_behavior_MA, lengths)
    peak = torch.stack([part.abs().amax(0) if len(part) else attn_behavior_MA.new_zeros(attn_behavior_MA.shape[1]) for part in parts])
    # Never below the least normal number: a division by a denormal scale overflows where denormals are flushed.
    scale = torch.where(peak > 0, peak / 127, 1.0).clamp_min(torch.finfo(torch.float32).tiny)
    whole = [(part / scale[u]).round().clamp(-127, 127) for u, part in enumerate(parts)]
    return RaggedKeys(torch.cat(whole).to(torch.int8), start, max(lengths), scale)


def tensor(name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...], device: torch.device) -> None:
    """Check what the host knows of a tensor, without waiting for the device. Raises: ValueError naming the argument and the value."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if value.dtype != dtype:
        raise ValueError(f"{name} must have dtype {dtype}, got {value.dtype}")
    if value.device != device:
        raise ValueError(f"{name} must be on {device}, got {value.device}")
    matches = value.ndim == len(shape) and all(want is None or want == have for want, have in zip(shape, value.shape, strict=True))
    if not matches:
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{expected}], got {list(value.shape)}")
    if not value.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {list(value.stride())} for shape {list(value.shape)}")


def finite(name: str, value: Tensor) -> None:
    """Waits for the device. Raises: ValueError naming the first place and value that is NaN or infinite."""
    good = value.isfinite()
    if not bool(good.all()):
        place = (~good).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {float(value[tuple(place)])} at {place}")
