"""The straightforward implementation that `dare bench serve` compares with: FastAPI, pydantic and torch, one endpoint, the same model."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from service.bench.torch_model import ScoreRequest, TorchModel, users_of


def create_app(artifacts: Path, histories: Path) -> FastAPI:
    """The application. `histories` as `users_of` reads them."""
    model = TorchModel(artifacts)
    users = users_of(model, histories)
    app = FastAPI()

    @app.post("/v1/score")
    def score(request: ScoreRequest) -> dict[str, list[float]]:
        return {"scores": model.score(users[request.user_id], request)}

    return app


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    uvicorn.run(create_app(Path(sys.argv[1]), Path(sys.argv[2])), port=int(sys.argv[3]), log_level="warning", access_log=False)
