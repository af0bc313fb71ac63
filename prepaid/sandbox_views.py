"""Addresses that only test merchants have: for a live key they do not exist.

Above the rooms whose verbs they call, since an Idempotency-Key is kept beside those of cards and payments.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypedDict

from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse

from claims import adjudication
from claims.models import Claim, InsuredEvent
from config import api
from config.api import optional, required
from config.errors import NotFound
from config.shapes import Day, Fen, Moment, moment
from config.states import IllegalMove
from insurance import insurer
from insurance.models import Policy
from issuing import merchants
from points import bank
from points import shapes as points_shapes
from points.models import Exchange
from points.views import ExchangeNotFound
from prepaid import answers, endpoint, sandbox, shapes
from prepaid.views import PolicyNotFound


class Endpoint(endpoint.Endpoint):
    """An address of a test merchant's. To a live key it answers as an address that is none."""

    is_for_tests = True
    refused_always: ClassVar = (*endpoint.Endpoint.refused_always, NotFound)

    def admit(self, request: HttpRequest) -> None:
        super().admit(request)
        if not self.merchant.is_test:
            self.standing = None  # an address that is none says nothing of limits
            raise NotFound()


# The clock ----------------------------------------------------------------------------------------------------------


class TestClockShape(TypedDict):
    """What time it is for a test merchant."""

    now: Moment
    ahead_seconds: Annotated[int, "So far it is ahead of ours."]


class TestClock(Endpoint):
    EXAMPLE: ClassVar = {"advance_seconds": 2592000}
    BODY: ClassVar = {
        "advance_seconds": optional(api.integer()),
        "to": optional(api.moment),
    }

    @api.answers(TestClockShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """Get the test clock"""
        api.read_query(request, {})
        return self.answer(self._shape())

    @api.answers(
        TestClockShape, refuses=[merchants.ClockMoveUnclear, merchants.ClockGoesBack, merchants.ClockTooFarAhead]
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Move the test clock ahead

        By so many seconds, or to a moment. What is due by then is done before the answer is sent.
        """
        body = api.read_body(request, self.BODY)
        if len(body) != 1:
            raise merchants.ClockMoveUnclear()

        def effect() -> TestClockShape:
            sandbox.move_clock(
                merchant=self.merchant, seconds=body.get("advance_seconds"), to=body.get("to"), now=self.asked_at
            )
            return self._shape()

        response = self.once(request, body, effect, status=200)
        sandbox.catch_up(merchant=self.merchant, now=self.asked_at)
        return response

    def _shape(self) -> TestClockShape:
        return {
            "now": moment(self.merchant.moment(self.asked_at), self.zone),
            "ahead_seconds": self.merchant.test_clock_ahead,
        }


# What partners decide -----------------------------------------------------------------------------------------------


class Decision(Endpoint):
    """Has a partner's test side decide now, outside of every transaction; the answer is kept once it has."""

    BODY: ClassVar[dict[str, api.Member]] = {}
    EXAMPLE: ClassVar[dict[str, Any]] = {}

    def decided(
        self,
        request: HttpRequest,
        find: Callable[[], Any],
        decide: Callable[[Any], None],
        shape: Callable[[Any], object],
    ) -> HttpResponse:
        body = api.read_body(request, self.BODY)
        key = self.idempotency_key(request)
        row = find()
        kept = answers.once(
            merchant_id=self.merchant.pk,
            key=key,
            fingerprint=answers.fingerprint("POST", request.path, body),
            now=self.asked_at,
            effect=lambda: (202, "{}"),
        )
        status, text = kept.status, kept.body
        if status == 202:
            decide(row)
            status, text = 200, api.dump(shape(find()))
            answers.settle(merchant_id=self.merchant.pk, key=key, status=status, body=text)
        return endpoint.mark(api.respond(text, status=status), replayed=kept.replayed)


class PolicyDecision(Decision):
    outcome: ClassVar[Policy.State]

    @api.answers(shapes.PolicyShape, refuses=[PolicyNotFound, IllegalMove, insurer.PolicyNotDecided])
    def post(self, request: HttpRequest, policy_id: str) -> HttpResponse:
        def decide(policy: Policy) -> None:
            if policy.state != self.outcome:
                insurer.have_decided(policy=policy, accepted=self.outcome == Policy.State.ACCEPTED, now=self.asked_at)

        return self.decided(
            request,
            lambda: self.one(shapes.POLICIES, "pol", policy_id, PolicyNotFound),
            decide,
            lambda policy: shapes.policy(policy, self.zone),
        )


class AcceptPolicy(PolicyDecision):
    """Have the insurer accept a test policy"""

    outcome = Policy.State.ACCEPTED


class DeclinePolicy(PolicyDecision):
    """Have the insurer decline a test policy"""

    outcome = Policy.State.DECLINED


_EXCHANGES = Exchange.objects.select_related("account", "product__merchant", "quote__ratio__product")


class ExchangeDecision(Decision):
    scopes: ClassVar = {"post": "exchanges:write"}
    outcome: ClassVar[Exchange.State]

    @api.answers(points_shapes.ExchangeShape, refuses=[ExchangeNotFound, IllegalMove, bank.ExchangeNotDecided])
    def post(self, request: HttpRequest, exchange_id: str) -> HttpResponse:
        def decide(row: Exchange) -> None:
            if row.state != self.outcome:
                bank.have_decided(row=row, deducted=self.outcome == Exchange.State.ISSUED, now=self.asked_at)

        return self.decided(
            request,
            lambda: self.one(_EXCHANGES, "exc", exchange_id, ExchangeNotFound),
            decide,
            lambda row: points_shapes.exchange(row, self.zone),
        )


class Deduct(ExchangeDecision):
    """Have the bank deduct the points of a test exchange"""

    outcome = Exchange.State.ISSUED


class Refuse(ExchangeDecision):
    """Have the bank refuse a test exchange"""

    outcome = Exchange.State.REJECTED


# The drill ----------------------------------------------------------------------------------------------------------


class DrillClaimsShape(TypedDict):
    """How many claims there are in each state."""

    filed: int
    assessed: int
    approved: int
    paid: int
    rejected: int


class DrillShape(TypedDict):
    """A test merchant's insured event, and how far its claims are."""

    state: Annotated[str, InsuredEvent.State]
    loss_date: Day
    done: Annotated[bool, "Every claim has come to its end."]
    claims: DrillClaimsShape
    compensation: Annotated[Fen, "Of the claims that are paid."]
    created_at: Moment


class Drill(Endpoint):
    """An address of the test merchant's insured event."""

    scopes: ClassVar = {"get": "cards:read", "post": "claims:write"}

    def shape(self, event: InsuredEvent) -> DrillShape:
        claims = Claim.objects.filter(event=event).order_by().values("state")
        counts = {row["state"]: row for row in claims.annotate(count=Count("pk"), payable=Sum("payable", default=0))}
        paid = counts.get(Claim.State.PAID, {"payable": 0})

        def count(state: Claim.State) -> int:
            return int(counts[state]["count"]) if state in counts else 0

        return {
            "state": event.state,
            "loss_date": event.loss_date.isoformat(),
            "done": sandbox.is_done(event),
            "claims": {
                "filed": count(Claim.State.FILED),
                "assessed": count(Claim.State.ASSESSED),
                "approved": count(Claim.State.APPROVED),
                "paid": count(Claim.State.PAID),
                "rejected": count(Claim.State.REJECTED),
            },
            "compensation": paid["payable"],
            "created_at": moment(event.recorded_at, self.zone),
        }


class Default(Drill):
    BODY: ClassVar = {"loss_date": required(api.day)}
    EXAMPLE: ClassVar = {"loss_date": "2026-11-21"}

    @api.answers(DrillShape, refuses=[sandbox.DrillNotFound])
    def get(self, request: HttpRequest) -> HttpResponse:
        """See how far the drill is"""
        api.read_query(request, {})
        return self.answer(self.shape(sandbox.last_drill(self.merchant)))

    @api.answers(DrillShape, status=201, refuses=[adjudication.LossInFuture, adjudication.AlreadyDeclared])
    def post(self, request: HttpRequest) -> HttpResponse:
        """Let the test merchant fail

        Claims for all its cards are filed, assessed, approved and paid. A repetition is answered with how far it is.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> dict[str, Any]:
            sandbox.begin_default(merchant=self.merchant, loss_date=body["loss_date"], by=self.by, now=self.now)
            return {}

        self.idempotency_key(request)
        # What was just sold is covered first, as it would be if the failure came a moment later.
        insurer.sweep_tests(now=self.asked_at, seconds=sandbox.SECONDS)
        begun = self.once(request, body, effect, status=201)
        event = sandbox.last_drill(self.merchant)
        sandbox.carry_on(event=event, now=self.asked_at)
        replayed = "Idempotency-Replayed" in begun.headers
        return endpoint.mark(self.answer(self.shape(event), status=201), replayed=replayed)


class Reset(Drill):
    BODY: ClassVar[dict[str, api.Member]] = {}
    EXAMPLE: ClassVar[dict[str, Any]] = {}

    @api.answers(DrillShape, refuses=[sandbox.DrillNotFound, sandbox.DrillGoingOn, adjudication.JobInProgress])
    def post(self, request: HttpRequest) -> HttpResponse:
        """End the drill

        The test merchant sells again. What was recorded stays.
        """
        body = api.read_body(request, self.BODY)
        return self.once(request, body, lambda: self.shape(sandbox.reset(merchant=self.merchant)), status=200)
