"""Two people approve a batch at once; two workers issue it at once."""

from io import BytesIO
from threading import Barrier

import pytest
from django.contrib.auth.models import User

from config import tiers
from config.states import IllegalMove
from insurance.models import Insurer, Policy, Product
from issuing import batches
from issuing.models import Batch, BatchRow, Kind
from prepaid import processing
from prepaid.models import Card, Load
from tests import cards, invariants
from tests.races import PATIENCE, together

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 40


@pytest.fixture
def batch() -> Batch:
    merchant = cards.merchant()
    program = cards.program(Kind.BONUS, merchant=merchant, card_limit=50_000)
    Product.objects.create(
        merchant=merchant,
        insurer=Insurer.objects.create(code=cards.reference("INS"), name="Pacific"),
        code="GUARANTEE",
        annual_rate="0.012",
        valid_from_date="2020-01-01",
    )
    rows = "".join(
        f"PUR-{line},{program.code},王小明,13912345678,1200.00,2026-05-01T10:00:00+08:00,WECHAT\n"
        for line in range(ROWS)
    )
    source = BytesIO((",".join(batches.COLUMNS) + "\n" + rows).encode())
    maker = User.objects.create(username="maker")
    made = batches.stage(name="purchases.csv", source=source, made_by=maker, now=cards.NOW)
    assert (made.state, made.rows, made.bad_rows) == (Batch.State.STAGED, ROWS, 0), made.problem
    return made


def approvers(number: int) -> list[User]:
    return [tiers.let_decide(User.objects.create(username=f"approver-{person}")) for person in range(number)]


def test_of_two_approvers_one_is_the_approver(batch):
    people = approvers(8)
    answers = together(
        [lambda by=by: batches.approve(batch=Batch.objects.get(pk=batch.pk), by=by, now=cards.NOW) for by in people]
    )
    assert answers.count(None) == 1
    assert all(answer is None or isinstance(answer, IllegalMove) for answer in answers)
    batch.refresh_from_db()
    assert batch.approved_by == people[answers.index(None)]


def test_of_an_approver_and_a_rejecter_one_decides(batch):
    approver, rejecter = approvers(2)
    first, second = together(
        [
            lambda: batches.approve(batch=Batch.objects.get(pk=batch.pk), by=approver, now=cards.NOW),
            lambda: batches.reject(batch=Batch.objects.get(pk=batch.pk), by=rejecter, reason="no", now=cards.NOW),
        ]
    )
    assert [first, second].count(None) == 1
    batch.refresh_from_db()
    assert batch.state == (Batch.State.APPROVED if first is None else Batch.State.REJECTED)


def test_control_with_a_look_before_the_write_two_approve(batch):
    """What a move would be without its condition: look at the state, then write it."""

    def approve(by: User) -> int:
        looked_at = Batch.objects.get(pk=batch.pk)
        gate_passed = looked_at.state == Batch.State.STAGED and by.pk != looked_at.made_by_id
        looked.wait(PATIENCE)
        return gate_passed and Batch.objects.filter(pk=batch.pk).update(
            state=Batch.State.APPROVED, approved_by=by, approved_at=cards.NOW
        )

    people = approvers(2)
    looked = Barrier(len(people))
    assert together([lambda by=by: approve(by) for by in people]) == [1, 1]


def issued(batch: Batch) -> list:
    return together(
        [lambda: processing.issue_slice(batch=batch_of(batch), now=cards.NOW, size=15) for _worker in range(6)]
    )


def batch_of(batch: Batch) -> Batch:
    return Batch.objects.get(pk=batch.pk)


def test_workers_at_once_issue_every_line_once(batch):
    [approver] = approvers(1)
    batches.approve(batch=batch, by=approver, now=cards.NOW)
    assert sorted(issued(batch)) == [0, 0, 0, 10, 15, 15]
    batch.refresh_from_db()
    assert (batch.state, batch.issued_rows) == (Batch.State.ISSUED, ROWS)
    assert Card.objects.count() == Load.objects.count() == Policy.objects.count() == ROWS
    assert all(row.is_issued() for row in BatchRow.objects.select_related("batch"))
    invariants.hold()
