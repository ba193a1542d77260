"""What FastAPI cannot know of routes that read their requests themselves: the OpenAPI document says what the service really takes."""

from __future__ import annotations

from typing import Any

import msgspec

from service.behavior_store import MAX_LENGTH
from service.schemas import ID_PATTERN, MAX_LISTED, MAX_TIMESTAMP, WIRE

_PARAMETERS: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 100},
    "before": {"type": "integer", "minimum": 0, "maximum": MAX_TIMESTAMP},
    "skip": {"type": "integer", "minimum": 0, "maximum": MAX_LENGTH, "default": 0},
    "user_id": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": ID_PATTERN},
}


def completed(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with the wire structs' schemas and the true types of parameters, changed in place."""
    _, components = msgspec.json.schema_components(WIRE, ref_template="#/components/schemas/{name}")
    components["ScoreRequest"]["oneOf"] = [{"required": ["user_id"]}, {"required": ["behaviors"]}]
    schema.setdefault("components", {}).setdefault("schemas", {}).update(components)
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _PARAMETERS.get(parameter["name"], parameter["schema"])
    return schema
