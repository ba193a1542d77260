"""`score.onnx`: both stages of a model that the compiled kernels do not compute, as one portable graph with no table inside."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.scores import NEG_INF
from model.tables import Rows
from model.two_stage import TwoStageModel

INPUTS = (
    "attn_behavior_LA",
    "repr_behavior_LR",
    "behavior_category_L",
    "behavior_key_L",
    "length",
    "attn_target_NA",
    "repr_target_NR",
    "target_category_N",
    "target_key_N",
    "extra_NE",
)
OUTPUTS = ("click_probability_N", "index_NK", "score_NK")


class _Scoring(nn.Module):
    """One request: N targets at one moment of one user."""

    def __init__(self, model: TwoStageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        attn_behavior: Tensor,
        repr_behavior: Tensor,
        behavior_category: Tensor,
        behavior_key: Tensor,
        length: Tensor,
        attn_target: Tensor,
        repr_target: Tensor,
        target_category: Tensor,
        target_key: Tensor,
        extra: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Stages see rows, categories and identities; the table rows themselves stay outside of the graph.
        batch = UserBatch(
            item_L=behavior_key,
            category_L=behavior_category,
            item_key_L=behavior_key,
            length_T=length,
            target_item_TC=target_key[None],
            target_category_TC=target_category[None],
            target_key_TC=target_key[None],
            extra_TCE=extra[None],
        )
        view = self.model.view(batch, Rows(attn_behavior, attn_target), Rows(repr_behavior, repr_target))
        kept, interest = self.model.interest(view)
        logit = self.model.head(view.content.target_MR, interest, self.model.mass(kept), self.model.features(batch))
        index = torch.where(kept.valid_MK, kept.index_MK, -1)
        return torch.sigmoid(logit), index, kept.score_MK.masked_fill(~kept.valid_MK, NEG_INF)


def score_graph(model: TwoStageModel) -> bytes:
    """The graph of a trained model, in evaluation mode.

    Inputs (`INPUTS`): rows of L behaviors and N targets in both spaces, f32, [item ; category]; table rows of their categories and
    identities of their items, int64; `length` int64 [1], behaviors that are real: further rows are padding, and L must be at least K;
    `extra_NE` f32. Outputs (`OUTPUTS`): f32 [N]; int64 [N, K] positions, -1 where fewer are kept; f32 [N, K], -inf there.
    """
    config = model.config
    behaviors, targets = max(64, config.kept + 8), 5
    attn, content = 2 * model.attn.width, 2 * model.repr.width
    example = (
        torch.randn(behaviors, attn),
        torch.randn(behaviors, content),
        torch.ones(behaviors, dtype=torch.int64),
        torch.arange(behaviors),
        torch.tensor([behaviors - 3]),
        torch.randn(targets, attn),
        torch.randn(targets, content),
        torch.ones(targets, dtype=torch.int64),
        torch.arange(targets),
        torch.randn(targets, model.num_features),
    )
    length, size = torch.export.Dim("L", min=max(2, config.kept), max=1 << 20), torch.export.Dim("N", min=1, max=1 << 20)
    shapes = [{0: length}] * 4 + [None] + [{0: size}] * 5
    module = _Scoring(model).eval()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecated internals
            path = Path(folder) / "score.onnx"
            # Given a module, the ONNX exporter falls back to fixed sizes without a word; this refuses where a size is not free.
            exported = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                exported,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes=shapes,
                dynamo=True,
                opset_version=18,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
            return path.read_bytes()
    finally:
        quiet.setLevel(level)
