"""The same torch model behind LitServe, for `dare bench serve`: one inference process per core, one torch thread each."""

import sys
from pathlib import Path

import litserve
import torch

from service.bench.torch_model import ScoreRequest, TorchModel, users_of


class ScoreAPI(litserve.LitAPI):  # type: ignore[misc]
    """POST /v1/score. Each inference process loads the model for itself. LitServe reads the annotations: they must not be texts."""

    def __init__(self, artifacts: Path, histories: Path) -> None:
        super().__init__(api_path="/v1/score")
        self._artifacts, self._histories = artifacts, histories

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self._model = TorchModel(self._artifacts)
        self._users = users_of(self._model, self._histories)

    def decode_request(self, request: ScoreRequest) -> ScoreRequest:
        return request

    def predict(self, request: ScoreRequest) -> list[float]:
        return self._model.score(self._users[request.user_id], request)

    def encode_response(self, scores: list[float]) -> dict[str, list[float]]:
        return {"scores": scores}


if __name__ == "__main__":
    server = litserve.LitServer(ScoreAPI(Path(sys.argv[1]), Path(sys.argv[2])), accelerator="cpu", workers_per_device=int(sys.argv[4]))
    server.run(host="127.0.0.1", port=int(sys.argv[3]), log_level="warning", generate_client_file=False)
