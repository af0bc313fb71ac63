"""The contract as the tests read it, and every answer held against it."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema_rs
from django.http import HttpResponse

from config import api
from config.contract import contract

DOCS = Path(__file__).resolve().parents[2] / "docs" / "api"


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of everything in the contract."""
    return [
        (path, method, operation)
        for path, methods in contract()["paths"].items()
        for method, operation in methods.items()
    ]


def resolved(thing: dict[str, Any]) -> dict[str, Any]:
    """What stands behind a reference."""
    if "$ref" not in thing:
        return thing
    _root, _components, kind, name = thing["$ref"].split("/")
    found: dict[str, Any] = contract()["components"][kind][name]
    return found


@lru_cache(maxsize=1)
def _closed() -> dict[str, Any]:
    """The schemas as we answer them: clients must bear new members, our own tests none that is not declared."""
    return {
        name: {**schema, "additionalProperties": False} if schema.get("type") == "object" else schema
        for name, schema in contract()["components"]["schemas"].items()
    }


@lru_cache(maxsize=500)
def _validator(schema: str) -> Any:
    whole = {**json.loads(schema), "components": {"schemas": _closed()}}
    return jsonschema_rs.validator_for(whole, validate_formats=True)


def wrongs(schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with a value; nothing, if all is well."""
    return [f"{error.instance_path}: {error.message}" for error in _validator(json.dumps(schema)).iter_errors(value)]


@lru_cache(maxsize=1)
def _routes() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    # What has no name in its path comes first: /cards/quote is no card.
    return [
        (re.compile(api.PREFIX.rstrip("/") + re.sub(r"\{\w+\}", "[^/]+", path)), methods)
        for path, methods in sorted(contract()["paths"].items(), key=lambda one: one[0].count("{"))
    ]


def holds(method: str, path: str, response: HttpResponse) -> None:
    """Fail if the contract does not tell of this answer."""
    methods = next((methods for pattern, methods in _routes() if pattern.fullmatch(path)), {})
    operation = methods.get(method.lower())
    if operation is None:
        return  # no address of the API, or no method of it: the tests of refusals look at those
    told = operation["responses"].get(str(response.status_code))
    where = f"{method} {path} answered {response.status_code}"
    assert told is not None, f"{where}, of which the contract does not tell: {response.content!r}"
    told = resolved(told)
    content_type = response.headers["Content-Type"]
    assert content_type in told["content"], f"{where} with {content_type}"
    for name in response.headers:
        if name in contract()["components"]["headers"]:
            assert name in told["headers"], f"{where} with an undeclared {name}"
    found = wrongs(told["content"][content_type]["schema"], json.loads(response.content))
    assert not found, f"{where}: {found}"
