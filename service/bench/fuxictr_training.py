"""A rival in an interpreter of its own: TWIN of FuxiCTR on the rows of the file given, one training step for each line read.

Run by `dare bench train --fuxictr-python`, under an interpreter that has FuxiCTR and nothing of ours. The file holds, as .npz, `item` and
`category` [S, B, L + 1] table rows (the target last, padding 0 first), `label` [S, B], `items`, `categories` table sizes, `width`, `kept`,
`rate`. Says what it is, then reads the number of a step per line and answers with its loss.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from fuxictr import __version__  # type: ignore[import-not-found,unused-ignore]
from fuxictr.features import FeatureMap  # type: ignore[import-not-found,unused-ignore]
from model_zoo.LongCTR.TWIN.TWIN import TWIN  # type: ignore[import-not-found,unused-ignore]


def model_of(given: Any, folder: str) -> Any:
    """FuxiCTR's TWIN with the published widths; what it has beyond them (a short-term attention, linear maps) stays as it comes."""
    features = FeatureMap("bench", folder)
    features.labels = ["label"]
    for name, size in (("item", given["items"]), ("category", given["categories"])):
        features.features[name] = {"type": "categorical", "source": "item", "vocab_size": int(size), "padding_idx": 0}
    features.default_emb_dim = int(given["width"])
    return TWIN(
        features,
        dnn_hidden_units=[200, 80],
        attention_dim=2 * int(given["width"]),
        short_seq_len=int(given["kept"]),
        topk=int(given["kept"]),
        learning_rate=float(given["rate"]),
        embedding_dim=int(given["width"]),
        batch_norm=True,
        optimizer="adam",
        loss="binary_crossentropy",
        task="binary_classification",
        metrics=["AUC"],
        monitor="AUC",
        verbose=0,
        model_root=folder,
    )


def batches_of(given: Any) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]]:
    """What FuxiCTR's own loader would yield, made beforehand."""
    made = []
    for item, category, label in zip(given["item"], given["category"], given["label"], strict=True):
        rows = {"item": torch.from_numpy(item.astype(np.int64).ravel()), "category": torch.from_numpy(category.astype(np.int64).ravel())}
        made.append(({"label": torch.from_numpy(label)}, rows, torch.from_numpy((item[:, :-1] > 0).astype(np.float32))))
    return made


def main(path: str) -> None:
    """Answer until the input ends."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = np.load(path)
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(given, folder)
        model._max_gradient_norm, model._batch_index = 10.0, 0
        batches = batches_of(given)
        model.train()
        print(json.dumps({"name": f"FuxiCTR {__version__} TWIN", "torch": torch.__version__}), flush=True)
        for line in sys.stdin:
            labels, rows, mask = batches[int(line)]
            print(json.dumps({"loss": float(model.train_step((labels, dict(rows), mask)).detach())}), flush=True)


if __name__ == "__main__":
    main(sys.argv[-1])
