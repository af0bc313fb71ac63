"""The contract of the merchant API as OpenAPI 3.1.

It is read from what the endpoints parse with (BODY, QUERY, FILTERS), what they say they answer and refuse
(``api.answers``), the declared shapes, and the first lines of their methods. An address appears by being in the URLs.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import translation
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent

from config import api, shapes
from config.errors import Refused
from config.shapes import Schema

REASONS = {
    400: "Malformed", 401: "No valid key", 403: "Not allowed to this key", 404: "Not found", 409: "Not possible now",
    411: "No length", 413: "Too large", 415: "Not JSON", 422: "Not acceptable to the business", 429: "Too often",
    500: "Failure", 503: "Not possible at this moment",
}  # fmt: skip
DONE = {200: "Done", 201: "Made", 202: "Under way"}

PROBLEM: Schema = {
    "type": "object",
    "description": "A refusal (RFC 9457). `code` is for programs and never changes its status; `detail` is for people.",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Where the code is explained."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "In the language that Accept-Language asks for."},
        "code": {"type": "string"},
        "request_id": {"type": "string", "description": "Quote it when you ask about it."},
        "first": {"type": "string", "description": "With `ReferenceUsed`: what the reference was used for."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "A member of the body (`/holder/phone`) or of the query (`?limit`).",
                    },
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
                "required": ["pointer", "code", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
}
HEADERS: Mapping[str, Schema] = {
    "Request-Id": {"description": "The id of this request in our records.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "This is the answer that was given before.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit-Limit": {
        "description": "How many requests of this kind the key may send in a minute.",
        "schema": {"type": "integer"},
    },
    "RateLimit-Remaining": {"description": "How many of them are left.", "schema": {"type": "integer"}},
    "RateLimit-Reset": {"description": "In so many seconds there are more.", "schema": {"type": "integer"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
}
ALWAYS = ("Request-Id", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "New with each new request, the same with its repetition: it then has the same answer, and no "
    "effect of its own. A refused request does not use it up.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$", "examples": ["6f1c2a54-till-7-order-1"]},
}
CURSOR: Schema = {
    "name": "cursor",
    "in": "query",
    "description": "The `next_cursor` of the page before. It carries the filters; beside it only `limit` is needed.",
    "schema": {"type": "string"},
}
_SMALL = {"a", "an", "the"}


class Operation(AutoSchema):
    """One method of one address, as its view declares it."""

    view: Any

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> Schema:
        self.method, self.registry = method.lower(), registry
        handler = getattr(self.view, self.method)
        summary, _blank, more = (handler.__doc__ or type(self.view).__doc__ or "").partition("\n")
        told: api.Told = getattr(handler, "told", api.Told({200: Any}, ()))
        self.operation_id = _operation_id(summary or f"{self.method} {type(self.view).__name__}")
        self.is_list = self.method == "get" and hasattr(self.view, "FILTERS")
        self.is_kept = self.method == "post" and self.view.changes
        parameters = [*self._in_path(path), *self._in_query()]
        if self.is_kept:
            parameters.append(self._component("parameters", "IdempotencyKey", IDEMPOTENCY_KEY))
        operation: Schema = {
            "operationId": self.operation_id,
            "summary": summary.rstrip("."),
            "tags": [re.sub(path_prefix, "", path).strip("/").split("/")[0]],
            "security": [{"key": [self.view.scopes[self.method]]}],
            "responses": self._responses(told),
        }
        if more.strip():
            operation["description"] = " ".join(more.split())
        if parameters:
            operation["parameters"] = parameters
        if self.method == "post":
            operation["requestBody"] = self._body()
        return operation

    def _component(self, kind: str, name: str, schema: Schema) -> Schema:
        component = ResolvedComponent(name=name, type=kind, schema=schema, object=name)
        self.registry.register_on_missing(component)
        if self.registry[component].schema != schema:
            raise TypeError(f"the contract has two things named {name}")
        return {"$ref": f"#/components/{kind}/{name}"}

    def _schema(self, hint: Any) -> Schema:
        components: dict[str, Schema] = {}
        found = shapes.schema(hint, components)
        for name, schema in components.items():
            self._component("schemas", name, schema)
        return found

    # What comes in

    def _in_path(self, path: str) -> Iterator[Schema]:
        for name in re.findall(r"\{(\w+)\}", path):
            term = shapes.identity_in_address(name)
            schema = self._component("schemas", term.name, term.schema) if term else {"type": "string"}
            yield {"name": name, "in": "path", "required": True, "schema": schema}

    def _in_query(self) -> Iterator[Schema]:
        if self.method != "get":
            return
        members = dict(self.view.QUERY)
        if self.is_list:
            members = {name: member for name, (_where, member) in self.view.FILTERS.items()} | {"limit": api.LIMIT}
        for name, member in members.items():
            schema = api.schema_read(member.read)
            told: Schema = {"name": name, "in": "query", "schema": schema}
            if member.required:
                told["required"] = True
            if name == "limit":
                told["description"] = f"So many rows at most; {api.ROWS} unless told."
            yield told
        if self.is_list:
            yield self._component("parameters", "Cursor", CURSOR)

    def _body(self) -> Schema:
        content: Schema = {"schema": api.schema_read(api.record(self.view.BODY))}
        if hasattr(self.view, "EXAMPLE"):
            content["example"] = self.view.EXAMPLE
        return {"required": True, "content": {"application/json": content}}

    # What goes out

    def _responses(self, told: api.Told) -> dict[str, Schema]:
        responses = {str(status): self._response(status, shape) for status, shape in told.answers.items()}
        by_status: dict[int, list[type[Refused]]] = defaultdict(list)
        for refusal in dict.fromkeys(self._refusals(told)):
            by_status[refusal.status].append(refusal)
        for status, refusals in sorted(by_status.items()):
            responses[str(status)] = self._problem(status, refusals)
        return responses

    def _refusals(self, told: api.Told) -> Iterator[type[Refused]]:
        yield from self.view.refused_always
        if self.method == "post":
            yield from api.REFUSED_BODIES
        else:
            yield api.InvalidInput
        if self.is_list:
            yield api.CursorNotValid
        if self.is_kept:
            yield from self.view.refused_keys
        yield from told.refuses

    def _response(self, status: int, shape: Any) -> Schema:
        schema = self._schema(shape)
        headers = [*ALWAYS, *(["Idempotency-Replayed"] if self.is_kept else [])]
        response: Schema = {"description": DONE[status], "headers": self._headers(headers)}
        if self.is_list:
            next_page = {"operationId": self.operation_id, "parameters": {"cursor": "$response.body#/next_cursor"}}
            response["links"] = {"next page": next_page}
            schema = {
                "type": "object",
                "properties": {
                    "data": {"type": "array", "items": schema},
                    "next_cursor": {"type": ["string", "null"]},
                    "has_more": {"type": "boolean"},
                },
                "required": ["data", "next_cursor", "has_more"],
            }
        return {**response, "content": {"application/json": {"schema": schema}}}

    def _headers(self, names: list[str]) -> Schema:
        return {name: self._component("headers", name, HEADERS[name]) for name in names}

    def _problem(self, status: int, refusals: list[type[Refused]]) -> Schema:
        refusals.sort(key=lambda refusal: refusal.code)
        codes = "\n".join(f"- `{one.code}`: {_meaning(one)}" for one in refusals)
        headers = [*ALWAYS, *(["Retry-After"] if status in (429, 503) else [])]
        problem = self._component("schemas", "Problem", PROBLEM)
        response = {
            "description": f"{REASONS[status]}\n\n{codes}",
            "headers": self._headers(headers),
            "content": {
                "application/problem+json": {
                    "schema": {**problem, "properties": {"code": {"enum": [one.code for one in refusals]}}},
                    "example": _example(refusals[-1]),
                }
            },
        }
        if len(refusals) > 1:
            return response
        return self._component("responses", refusals[0].code, response)


def _operation_id(summary: str) -> str:
    first, *rest = [word for word in re.findall(r"\w+", summary.lower()) if word not in _SMALL]
    return first + "".join(word.capitalize() for word in rest)


class _Ellipsis(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "…"


def _meaning(refusal: type[Refused]) -> str:
    return str(refusal.text) % _Ellipsis()


def _example(refusal: type[Refused]) -> Schema:
    return {
        "type": f"{api.CATALOGUE}#{refusal.code}",
        "title": api.title(refusal.code),
        "status": refusal.status,
        "detail": _meaning(refusal),
        "code": refusal.code,
        "request_id": "7f0c6d5e4b3a29180716253443526170",
        "errors": [],
    }


def link(result: Schema, **_generator: Any) -> Schema:
    """Say of every answer that has an id where it leads: to each address that takes it."""
    operations = [operation for methods in result["paths"].values() for operation in methods.values()]
    takes: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for operation in operations:
        for parameter in operation.get("parameters", ()):
            if parameter.get("in") == "path":
                takes[parameter["schema"].get("$ref")].append((operation["operationId"], parameter["name"]))
    for operation in operations:
        for response in operation["responses"].values():
            schema = response.get("content", {}).get("application/json", {}).get("schema", {})
            where = "$response.body#/id"
            if "data" in schema.get("properties", {}):
                schema, where = schema["properties"]["data"]["items"], "$response.body#/data/0/id"
            shape = result["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            identity = shape.get("properties", {}).get("id", {}).get("$ref")
            for operation_id, name in takes.get(identity, ()):
                if operation_id != operation["operationId"]:
                    response.setdefault("links", {})[operation_id] = {
                        "operationId": operation_id,
                        "parameters": {name: where},
                    }
    return result


# Told ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def contract() -> Schema:
    """The whole contract, in English whoever asks first."""
    with translation.override("en"):
        found: Schema = SchemaGenerator().get_schema(public=True)
    return found


@lru_cache(maxsize=1)
def _document() -> str:
    return api.dump(contract())


@require_safe
def document(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(_document(), content_type="application/json")


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """The contract to read and to try, from this machine alone."""
    return render(request, "contract.html")
