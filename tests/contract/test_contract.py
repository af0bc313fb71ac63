"""The contract is whole, is kept as it is, and its examples work."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from config import api
from config.contract import contract
from config.ids import example_of
from issuing import keys
from prepaid import processing
from prepaid.refusals import catalogue
from tests import browser
from tests.api.asking import Asker, asker
from tests.browser import Browser
from tests.contract import postman, world
from tests.contract.holding import DOCS, operations, resolved
from tests.partners import PointsSystem, partner_process, points_system

__all__ = ["partner_process", "points_system"]

OPERATIONS = operations()


@pytest.mark.parametrize("name", ["openapi.json", "postman.json"])
def test_it_is_kept_as_it_is(name: str) -> None:
    document = {"openapi.json": contract, "postman.json": postman.collection}[name]()
    # A line for each thing, so that a change shows as one.
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    if os.environ.get("CONTRACT_WRITE"):
        (DOCS / name).write_text(text, encoding="utf-8")
    assert (DOCS / name).read_text(encoding="utf-8") == text, "write it anew: python -m tests.contract --write"


def test_it_is_served_as_it_is_kept(client: Any) -> None:
    served = client.get(f"{api.PREFIX}openapi.json")
    assert served.headers["Content-Type"] == "application/json"
    assert served.json() == json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=[one[2]["operationId"] for one in OPERATIONS])
def test_everything_is_told_of_every_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["security"][0]["key"][0] in keys.SCOPES
    for status, response in operation["responses"].items():
        for content in resolved(response)["content"].values():
            assert content["schema"], f"{path} does not say what it answers with {status}: put @api.answers above it"
    for parameter in operation.get("parameters", ()):
        assert resolved(parameter)["schema"], parameter
    if method == "post":
        content = operation["requestBody"]["content"]["application/json"]
        assert content["schema"]["additionalProperties"] is False
        undescribed = [name for name, schema in content["schema"]["properties"].items() if not schema]
        assert not undescribed, f"{path}: say with @api.reads what {undescribed} accept"
        assert "example" in content, f"{path} has no EXAMPLE"


def test_no_two_operations_have_one_name() -> None:
    names = [operation["operationId"] for _path, _method, operation in OPERATIONS]
    assert len(names) == len(set(names))


# Said by no address of the contract: of what is no address, and by way of other methods.
ELSEWHERE = {"NotFound", "MethodNotAllowed"}


def test_it_tells_of_every_refusal_in_the_catalogue_and_of_no_other() -> None:
    told = {
        code
        for _path, _method, operation in OPERATIONS
        for status, response in operation["responses"].items()
        if int(status) >= 400
        for code in resolved(response)["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]
    }
    assert told | ELSEWHERE == {entry.code for entry in catalogue()}


# Examples -----------------------------------------------------------------------------------------------------------

# What has to be done before it can be done.
FIRST = {"unfreezeCard": ["freeze"], "replaceLostCard": ["report-lost"], "resumeWebhookEndpoint": ["pause"]}


def filled(thing: Any, known: dict[str, str]) -> Any:
    """An example with the ids that are there in place of its own."""
    text = json.dumps(thing)
    for prefix, there in known.items():
        text = text.replace(example_of(prefix), there)
    return json.loads(text)


def address(path: str, operation: dict[str, Any], known: dict[str, str]) -> str:
    for parameter in map(resolved, operation.get("parameters", ())):
        if parameter["in"] == "path":
            example = resolved(parameter["schema"])["examples"][0]
            path = path.replace(f"{{{parameter['name']}}}", filled(example, known))
    return path.lstrip("/")


def asked(made: world.World, path: str, method: str, operation: dict[str, Any]) -> Any:
    """An operation's example, asked of a world that is put back afterwards."""
    name, known, asker = operation["operationId"], made.known, made.asker
    body = None
    if method == "post":
        body = filled(operation["requestBody"]["content"]["application/json"]["example"], known)
    if path.startswith("/claims"):
        asker = made.failed
    if name == "fileClaim":
        body = {**body, "card": made.claimable}
    path = address(path, operation, known)
    if name == "findCardByItsNumber":
        body = {"number": known["number"]}
    if name == "redeemCoupon":
        body = {**body, "code": known["code"]}
    if name == "exchangePointsForCoupons":
        [quoting] = [one for one in OPERATIONS if one[2]["operationId"] == "quotePointsForCoupons"]
        body = {**body, "quote": asked(made, *quoting).json()["id"]}
    for verb in FIRST.get(name, ()):
        before = asker.post(path.replace(path.rpartition("/")[2], verb), {"reason": "x"} if body else {})
        assert before.status_code == 200, before.content
    return asker.ask(method.upper(), path, body)


@pytest.mark.django_db
def test_every_example_works_and_is_answered_as_told(points_system: PointsSystem, settings: Any) -> None:
    """Each answer is held against the contract by the one who asks."""
    made = world.build()
    world.open_bank(points_system, settings)
    for path, method, operation in OPERATIONS:
        if path.startswith("/test"):
            continue  # for test merchants: see tests/api/test_sandbox.py
        before = transaction.savepoint()
        answer = asked(made, path, method, operation)
        assert answer.status_code in (200, 201, 202), f"{operation['operationId']}: {answer.content!r}"
        transaction.savepoint_rollback(before)


@pytest.mark.django_db
def test_a_key_is_asked_for_exactly_the_scope_that_is_told() -> None:
    made = world.build()
    for path, method, operation in OPERATIONS:
        [scope] = operation["security"][0]["key"]
        refused = []
        for scopes in ([scope], [one for one in keys.SCOPES if one != scope]):
            limited = with_key(made.failed if path.startswith("/claims") else who(path, made), scopes)
            body = {} if method == "post" else None
            answer = limited.ask(method.upper(), re.sub(r"\{\w+\}", "x", path).lstrip("/"), body)
            refused.append(answer.status_code == 403)
        assert refused == [False, True], operation["operationId"]


def who(path: str, made: world.World) -> Asker:
    """Who may ask there: what begins with /test is a test merchant's."""
    if not path.startswith("/test"):
        return made.asker
    return asker(processing.make_test_twin(merchant=made.asker.merchant, now=timezone.now()))


def with_key(of: Asker, scopes: list[str]) -> Asker:
    _key, text = keys.make(merchant=of.merchant, name="till", now=timezone.now(), scopes=scopes)
    return Asker(of.merchant, text)


@pytest.mark.django_db
def test_an_idempotency_key_is_asked_for_exactly_where_that_is_told() -> None:
    made = world.build()
    for path, method, operation in OPERATIONS:
        if method != "post":
            continue
        told = any(resolved(one)["name"] == "Idempotency-Key" for one in operation.get("parameters", ()))
        body = filled(operation["requestBody"]["content"]["application/json"]["example"], made.known)
        answer = who(path, made).ask("POST", address(path, operation, made.known), body, Idempotency_Key=None)
        missing = answer.status_code == 400 and answer.json()["code"] == "IdempotencyKeyMissing"
        assert missing == told, operation["operationId"]


# The page -----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(not browser.PATH, reason="this machine has no Chromium")
def test_it_can_be_read_and_tried_on_its_page_with_nothing_from_outside(tmp_path: Path, live_server: Any) -> None:
    page = Browser(tmp_path / "profile", width=1280)
    try:
        page.open(f"{live_server.url}{api.PREFIX}docs")
        page.until("document.querySelectorAll('.opblock').length")
        assert page.run("document.querySelectorAll('.opblock').length") == len(OPERATIONS)
        page.run("document.querySelector('#operations-cards-openCard button').click()")
        page.until("document.querySelector('#operations-cards-openCard .opblock-body')")
        page.until("document.body.innerText.includes('CashNotAllowed')")
        if folder := os.environ.get("PICTURES"):
            page.picture(Path(folder) / "contract.png")
        outside = "performance.getEntriesByType('resource').filter(one => !one.name.startsWith(location.origin)).length"
        assert page.run(outside) == 0
        assert page.wrongs == []
    finally:
        page.close()


def test_the_pages_beside_it_are_served(client: Any) -> None:
    for name in ("README.md", "quickstart.md", "client.py", "postman.json"):
        page = client.get(f"{api.PREFIX}docs/{name}")
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert page.content.decode() == (DOCS / name).read_text(encoding="utf-8")
    assert client.get(f"{api.PREFIX}docs/nothing.md").json()["code"] == "NotFound"
