"""The same request many times at the same moment, on the real database, each beside a control."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from config.ids import new_id, public_id
from issuing.models import Kind
from prepaid import answers
from prepaid.models import Card, CardMove, Load, NetworkAccount, StoredAnswer, Transaction
from tests import cards, invariants
from tests.api.asking import Asker, asker, insured
from tests.races import together

pytestmark = pytest.mark.django_db(transaction=True)

CALLERS = 8


def order(racing: Asker, reference: str = "PUR-1") -> dict[str, Any]:
    return {
        "program": public_id("prg", cards.program(Kind.BONUS, merchant=racing.merchant).pk),
        "prepaid_amount": 100_000,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": reference,
        "payment_method": "WECHAT",
    }


def opened(racing: Asker) -> str:
    return racing.post("cards", order(racing, cards.reference("PUR"))).json()["id"]


@pytest.fixture
def racing(db) -> Asker:
    return asker(insured())


@pytest.mark.parametrize("what", ["cards", "top-ups", "payments", "freeze", "close"])
def test_of_many_at_once_with_one_key_one_takes_effect_and_all_get_its_answer(racing, what):
    path = f"cards/{opened(racing)}/{what}"
    question = {
        "cards": ("cards", order(racing)),
        "top-ups": (path, {"prepaid_amount": 100, "reference": "TOP-1"}),
        "payments": (path, {"list_amount": 100, "reference": "ORDER-1"}),
        "freeze": (path, {"reason": "x"}),
        "close": (path, {"reason": "x"}),
    }[what]
    found = together([partial(racing.post, *question, Idempotency_Key="k-1")] * CALLERS)
    assert {answer.status_code for answer in found} <= {200, 201}, [answer.content for answer in found]
    assert len({answer.content for answer in found}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in found) == CALLERS - 1
    effects = {
        "cards": Card.objects.count() - 1,
        "top-ups": Load.objects.count() - 1,
        "payments": Transaction.objects.filter(kind="PAYMENT").count(),
        "freeze": CardMove.objects.count(),
        "close": CardMove.objects.count(),
    }
    assert effects[what] == 1
    invariants.hold()


@pytest.mark.parametrize("what", ["cards", "top-ups", "payments"])
def test_of_many_at_once_with_one_reference_one_is_first_and_named_to_the_others(racing, what):
    """Also the control of the test above: without the key in common the same calls do contend."""
    path = f"cards/{opened(racing)}/{what}"
    question = {
        "cards": ("cards", order(racing)),
        "top-ups": (path, {"prepaid_amount": 100, "reference": "TOP-1"}),
        "payments": (path, {"list_amount": 100, "reference": "ORDER-1"}),
    }[what]
    found = together([partial(racing.post, *question, Idempotency_Key=f"k-{n}") for n in range(CALLERS)])
    assert sorted(answer.status_code for answer in found) == [201] + [409] * (CALLERS - 1), [a.content for a in found]
    first = Transaction.objects.get(reference=question[1]["reference"])
    assert {a.json()["first"] for a in found if a.status_code == 409} == {public_id("txn", first.pk)}
    invariants.hold()


def test_one_reference_on_two_cards_at_once_is_used_once(racing):
    paths = [f"cards/{opened(racing)}" for _n in range(CALLERS)]
    for verb, body in (
        ("payments", {"list_amount": 1, "reference": "ORDER-1"}),
        ("top-ups", {"prepaid_amount": 1, "reference": "TOP-1"}),
    ):
        found = together([partial(racing.post, f"{path}/{verb}", body) for path in paths])
        assert sorted(answer.status_code for answer in found) == [201] + [409] * (CALLERS - 1)


def account(merchant) -> Callable[[], tuple[int, str]]:
    """An effect that nothing but the key keeps from happening twice."""

    def effect() -> tuple[int, str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.05)")
        NetworkAccount.objects.create(merchant=merchant, holder_key=new_id().hex, recorded_at=timezone.now())
        return 201, "{}"

    return effect


def looked_for_first(merchant, effect: Callable[[], tuple[int, str]]) -> None:
    """What would be done without the unique row: look, then act, then keep the answer."""
    with transaction.atomic():
        if not StoredAnswer.objects.filter(merchant=merchant, key="k-2").exists():
            status, body = effect()
            StoredAnswer.objects.create(
                merchant=merchant, key=new_id().hex, status=status, body=body, recorded_at=timezone.now()
            )


def test_the_row_decides_and_without_it_the_effect_would_come_twice(racing):
    merchant = racing.merchant
    once = partial(
        answers.once, merchant_id=merchant.pk, key="k-1", fingerprint="f", now=timezone.now(), effect=account(merchant)
    )
    assert sorted(answer.replayed for answer in together([once] * CALLERS)) == [False] + [True] * (CALLERS - 1)
    assert NetworkAccount.objects.count() == 1
    # The control: the same calls, with a look instead of the row.
    together([partial(looked_for_first, merchant, account(merchant))] * CALLERS)
    assert NetworkAccount.objects.count() > 2


def test_a_failure_in_the_effect_leaves_the_key_as_new(racing):
    merchant = racing.merchant

    def fails() -> tuple[int, str]:
        NetworkAccount.objects.create(merchant=merchant, holder_key=new_id().hex, recorded_at=timezone.now())
        raise RuntimeError("the machine stops here")

    once = partial(answers.once, merchant_id=merchant.pk, key="k-1", fingerprint="f", now=timezone.now())
    with pytest.raises(RuntimeError):
        once(effect=fails)
    assert not NetworkAccount.objects.exists()
    assert not once(effect=account(merchant)).replayed
