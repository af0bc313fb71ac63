"""The contract as a Postman collection (format 2.1): a folder for each kind of thing, a request for each operation."""

import json
from typing import Any

from config.contract import contract
from tests.contract.holding import operations, resolved

FORMAT = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"


def collection() -> dict[str, Any]:
    folders: dict[str, list[dict[str, Any]]] = {}
    for path, method, operation in operations():
        folders.setdefault(operation["tags"][0], []).append(_request(path, method, operation))
    info = contract()["info"]
    return {
        "info": {
            "name": info["title"],
            "description": info["description"],
            "version": info["version"],
            "schema": FORMAT,
        },
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{api_key}}", "type": "string"}]},
        "variable": [
            {"key": "base_url", "value": "http://127.0.0.1:8000/api/v1"},
            {"key": "api_key", "value": "sk_test_…"},
        ],
        "item": [{"name": name, "item": requests} for name, requests in folders.items()],
    }


def _request(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    parameters = [resolved(one) for one in operation.get("parameters", ())]
    by_place = {place: [one for one in parameters if one["in"] == place] for place in ("path", "query", "header")}
    request: dict[str, Any] = {
        "method": method.upper(),
        "description": operation.get("description", operation["summary"]),
        # A new key with each request that is sent.
        "header": [{"key": one["name"], "value": "{{$guid}}"} for one in by_place["header"]],
        "url": {
            "raw": "{{base_url}}" + path.replace("{", ":").replace("}", ""),
            "host": ["{{base_url}}"],
            "path": [part.replace("{", ":").replace("}", "") for part in path.strip("/").split("/")],
            "query": [
                {"key": one["name"], "value": "", "disabled": True, "description": one.get("description", "")}
                for one in by_place["query"]
            ],
            "variable": [
                {"key": one["name"], "value": resolved(one["schema"])["examples"][0]} for one in by_place["path"]
            ],
        },
    }
    if "requestBody" in operation:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        request["body"] = {
            "mode": "raw",
            "raw": json.dumps(example, ensure_ascii=False, indent=2),
            "options": {"raw": {"language": "json"}},
        }
    return {"name": operation["summary"], "request": request}
