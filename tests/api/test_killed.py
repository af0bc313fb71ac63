"""The web server killed between the commit and the answer: asked again, it gives the answer and does nothing twice."""

import socket
from contextlib import suppress
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any

import httpx
import pytest
from django.utils import timezone

from config.ids import public_id
from issuing.models import Kind, MerchantKey
from prepaid import answers
from prepaid.models import Card, CardMove, Load, StoredAnswer, Transaction
from tests import cards, invariants
from tests.api.asking import Asker, asker, insured
from tests.partners import PATIENCE
from tests.web import served, serving

HOLDS_ANSWERS = "tests.web:holding"


def asked(port: int, program: Asker, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {program.key}", "Idempotency-Key": "k-1", **headers}
    return httpx.post(f"http://127.0.0.1:{port}/api/v1/{path}", json=body, headers=headers, timeout=PATIENCE)


def order(program: Asker) -> dict[str, Any]:
    return {
        "program": public_id("prg", cards.program(Kind.BONUS, merchant=program.merchant).pk),
        "prepaid_amount": 100_000,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": cards.reference("PUR"),
        "payment_method": "WECHAT",
    }


def shows(rows: Any) -> None:
    patience = monotonic() + PATIENCE
    while not rows.exists():
        assert monotonic() < patience


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["cards", "top-ups", "payments", "freeze"])
def test_killed_after_the_commit_it_answers_the_repetition_and_does_nothing_twice(what, tmp_path):
    program = asker(insured())
    card = program.post("cards", order(program)).json()["id"]
    path, body, rows = {
        "cards": ("cards", order(program), Card.objects.exclude(pk=Card.objects.get().pk)),
        "top-ups": (f"cards/{card}/top-ups", {"prepaid_amount": 5, "reference": "TOP-1"}, Load.objects.filter(seq=2)),
        "payments": (
            f"cards/{card}/payments", {"list_amount": 5, "reference": "ORDER-1"},
            Transaction.objects.filter(kind="PAYMENT"),
        ),
        "freeze": (f"cards/{card}/freeze", {"reason": "lost"}, CardMove.objects.filter(to_state="FROZEN")),
    }[what]  # fmt: skip
    log = tmp_path / "log"
    with serving(log, application=HOLDS_ANSWERS) as web, socket.create_connection(("127.0.0.1", web.port)) as line:
        port = web.port
        sent = httpx.Request(
            "POST", f"http://127.0.0.1:{port}/api/v1/{path}", json=body,
            headers={"Authorization": f"Bearer {program.key}", "Idempotency-Key": "k-1", "X-Hold": "1"},
        )  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.headers.items())
        line.sendall(f"POST /api/v1/{path} HTTP/1.1\r\n{head}\r\n".encode() + sent.content)
        shows(rows)
        web.kill()
        line.settimeout(PATIENCE)
        with suppress(ConnectionResetError):  # as good as nothing
            assert line.recv(1) == b""
    with served(log) as port:
        MerchantKey.objects.update(last_used_at=None)
        first = asked(port, program, path, body)
        shows(MerchantKey.objects.exclude(last_used_at=None))  # written once this server has sent its answer
        again = asked(port, program, path, body)
    assert first.status_code == (200 if what == "freeze" else 201), first.text
    assert [answer.headers.get("Idempotency-Replayed") for answer in (first, again)] == ["true", "true"]
    assert again.content == first.content
    assert rows.count() == 1
    invariants.hold()


# What is kept, and for how long


@pytest.mark.django_db
def test_an_answer_is_given_again_for_thirty_days_and_the_reference_is_used_for_ever(lotus):
    opened = lotus.post("cards", order(lotus)).json()["id"]
    top_up = partial(
        lotus.post, f"cards/{opened}/top-ups", {"prepaid_amount": 5, "reference": "TOP-1"}, Idempotency_Key="k-1"
    )
    first = top_up()
    made_at = StoredAnswer.objects.get(key="k-1").recorded_at
    answers.forget(now=made_at + answers.KEPT)
    assert top_up().content == first.content
    answers.forget(now=made_at + answers.KEPT + timedelta(seconds=1))
    assert not StoredAnswer.objects.exists()
    late = top_up()
    assert (late.status_code, late.json()["code"]) == (409, "ReferenceUsed")
    assert Load.objects.count() == 2


@pytest.mark.django_db
def test_what_is_still_under_way_is_not_forgotten(merchant):
    now = timezone.now()
    for key, status in (("k-1", 202), ("k-2", 201)):
        StoredAnswer.objects.create(
            merchant=merchant, key=key, fingerprint="f", status=status, body="{}", recorded_at=now
        )
    assert answers.forget(now=now + timedelta(days=400)) == 1
    assert StoredAnswer.objects.get().key == "k-1"
