"""The merchant API. Each view reads strictly, calls one verb and answers; rules live in the verbs."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from claims import adjudication
from claims.models import Claim
from config import api
from config.api import optional, required
from config.errors import NotFound
from config.ids import example_of, parse_id
from config.money import AmountNotPositive, AmountTooLarge
from config.states import IllegalMove
from insurance import enrolment
from insurance.models import Policy
from issuing import numbering, orders, split
from issuing.models import CardProgram, Kind, Merchant, PaymentMethod
from issuing.orders import Holder, Order
from prepaid import answers, consumption, endpoint, ledger, processing, shapes
from prepaid.endpoint import REFERENCE, Filters
from prepaid.ledger import Posted
from prepaid.models import Card, Load, Transaction
from prepaid.valuation import Cause

AMOUNT = api.integer()
# Read as any text, because an unknown way of paying is refused by name.
PAID_BY = api.Reader(api.text(most=16), {"type": "string", "enum": PaymentMethod.values})


class ProgramNotFound(NotFound):
    text = _("No such card program.")
    remedy = _("Take an id from the list of programs.")


class PolicyNotFound(NotFound):
    text = _("No such policy.")
    remedy = _("Take the id from the card.")


class CertificateNotFound(NotFound):
    text = _("No such policy, or it was never accepted.")
    remedy = _("Wait until the policy is ACCEPTED.")


class ClaimNotFound(NotFound):
    text = _("No such claim.")
    remedy = _("Take the id from the answer that filed it.")


ORDERING = (
    orders.MerchantFailed, orders.ProgramWithdrawn, orders.WrongPrice, orders.AmountBelowOneCard, AmountNotPositive,
    AmountTooLarge, split.TooManySubCards, enrolment.NoInsuranceProduct,
)  # fmt: skip
BUYING = (
    *ORDERING, orders.HolderNameNotReadable, orders.PhoneNotReadable, orders.IdNumberNotReadable,
    orders.IdentityNeeded, orders.HolderNeeded, orders.PaymentMethodUnknown, orders.CashNotAllowed,
    orders.PaidInFuture, ledger.ReferenceUsed,
)  # fmt: skip
QUOTING = (ProgramNotFound, *ORDERING)
OPENING = (ProgramNotFound, *BUYING)
TOPPING_UP = (
    *BUYING, ledger.CardNotFound, ledger.CardNotActive, ledger.CardExpired, ledger.CardFull, ledger.BeforeOpening,
)  # fmt: skip
MOVING = (ledger.CardNotFound, IllegalMove)
PAYING = (
    ledger.CardNotFound, ledger.CardNotActive, ledger.CoverNotAccepted, ledger.CardExpired, ledger.TermNotRunning,
    ledger.InsufficientBalance, ledger.WrongUnit, AmountNotPositive, AmountTooLarge, ledger.OccursInFuture,
    ledger.BeforeOpening, ledger.ReferenceUsed,
)  # fmt: skip
REFUNDING = (
    ledger.TransactionNotFound, ledger.NotAPayment, ledger.CardNotActive, ledger.RefundExceedsPayment,
    ledger.NothingLeftToRefund, AmountNotPositive, ledger.OccursInFuture, ledger.BeforePayment, ledger.ReferenceUsed,
)  # fmt: skip
REVERSING = (*REFUNDING, ledger.AlreadyRefunded)
FILING = (
    ledger.CardNotFound, adjudication.NoInsuredEvent, adjudication.AlreadyClaimed, adjudication.NothingToClaim,
    ledger.ReferenceUsed,
)  # fmt: skip


def _bought_as(merchant: Merchant, reference: str) -> Q:
    loads = Load.objects.filter(merchant=merchant, kind=Load.Kind.PURCHASE, reference=reference)
    return Q(pk__in=loads.values("card"))


def _of_kind(merchant: Merchant, kind: str) -> Q:
    # A card's kind is its program's, and programs are few: no index on cards is needed for a kind that is rare.
    programs = CardProgram.objects.filter(merchant=merchant, kind=kind)
    return Q(program__in=list(programs.values_list("pk", flat=True)))


def _referred_to_as(merchant: Merchant, reference: str) -> Q:
    # The index by reference has the kind before it: with every kind named it is a handful of probes.
    return Q(kind__in=Transaction.Kind.values, reference=reference)


class Endpoint(endpoint.Endpoint):
    """An address of the merchant's cards and of what happened on them."""

    def card(self, card_id: str) -> Card:
        return self.one(Card.objects.select_related("program"), "crd", card_id, ledger.CardNotFound)

    def post_to_ledger(
        self,
        request: HttpRequest,
        body: dict[str, Any],
        post: Callable[..., Posted],
        **what: Any,
    ) -> HttpResponse:
        """Post a transaction, which carries the Idempotency-Key itself and is rendered anew on a repetition."""
        posted = post(
            merchant_id=self.merchant.pk,
            key=self.idempotency_key(request),
            fingerprint=answers.fingerprint("POST", request.path, body),
            occurred_at=body.pop("occurred_at", self.now),
            now=self.now,
            **what,
            **body,
        )
        shape = shapes.transaction(posted, posted.entries, refunded=0, zone=self.zone)
        return endpoint.mark(self.answer(shape, status=201), replayed=posted.replayed)


def _found_or(missing: type[NotFound], prefix: str, text: str) -> UUID:
    found = parse_id(prefix, text)
    if found is None:
        raise missing()
    return found


# Programs -----------------------------------------------------------------------------------------------------------


class Programs(Endpoint):
    FILTERS: ClassVar[Filters] = {
        "kind": ("kind", optional(api.choice(Kind.values))),
        "state": ("state", optional(api.choice(CardProgram.State.values))),
    }

    @api.answers(shapes.ProgramShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List card programs"""
        return self.listed(
            request, shapes.PROGRAMS, self.FILTERS, lambda rows: [shapes.program(row, self.zone) for row in rows]
        )


class Program(Endpoint):
    @api.answers(shapes.ProgramShape, refuses=[ProgramNotFound])
    def get(self, request: HttpRequest, program_id: str) -> HttpResponse:
        """Get a card program"""
        api.read_query(request, {})
        row = self.one(shapes.PROGRAMS, "prg", program_id, ProgramNotFound)
        return self.answer(shapes.program(row, self.zone))


# Cards --------------------------------------------------------------------------------------------------------------


class CardQuote(Endpoint):
    changes = False
    scopes: ClassVar = {"post": "cards:read"}
    counted: ClassVar = {"post": "read"}
    BODY: ClassVar = {"program": required(api.naming("prg")), "prepaid_amount": required(AMOUNT)}
    EXAMPLE: ClassVar = {"program": example_of("prg"), "prepaid_amount": 1234567}

    @api.answers(shapes.CardQuoteShape, refuses=QUOTING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Quote a card

        How an amount would be split, its bonus and premium, worked out as on opening. Changes nothing.
        """
        body = api.read_body(request, self.BODY)
        program = self.one(shapes.PROGRAMS, "prg", body["program"], ProgramNotFound)
        quoted = processing.quote(program=program, amount=body["prepaid_amount"], now=self.now)
        return self.answer(shapes.quote(program, quoted))


class CardLookup(Endpoint):
    changes = False
    scopes: ClassVar = {"post": "cards:read"}
    counted: ClassVar = {"post": "lookup"}
    BODY: ClassVar = {"number": required(api.text(most=32))}
    EXAMPLE: ClassVar = {"number": "9156000000000000018"}

    @api.answers(shapes.CardShape, refuses=[ledger.CardNotFound])
    def post(self, request: HttpRequest) -> HttpResponse:
        """Find a card by its number

        A replaced number is dead. Changes nothing.
        """
        number = api.read_body(request, self.BODY)["number"]
        row = None
        if numbering.is_valid(number):
            row = shapes.CARDS.filter(merchant=self.merchant, number_hash__in=numbering.hashes(number)).first()
        if row is None:
            raise ledger.CardNotFound()
        return self.answer(shapes.card(row, self.now))


class Cards(Endpoint):
    HOLDER: ClassVar = {
        "name": optional(api.text(most=60)),
        "phone": optional(api.text(most=20)),
        "id_number": optional(api.text(most=18)),
        "is_organisation": optional(api.boolean),
    }
    BODY: ClassVar = {
        "program": required(api.naming("prg")),
        "prepaid_amount": required(AMOUNT),
        "holder": optional(api.record(HOLDER)),
        "reference": required(REFERENCE),
        "payment_method": required(PAID_BY),
    }
    EXAMPLE: ClassVar = {
        "program": example_of("prg"),
        "prepaid_amount": 1234567,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": "PUR-1",
        "payment_method": "WECHAT",
    }
    FILTERS: ClassVar[Filters] = {
        "state": ("state", optional(api.choice(Card.State.values))),
        "kind": (_of_kind, optional(api.choice(Kind.values))),
        "program": ("program", optional(api.identity("prg"))),
        "network_account": ("network_account", optional(api.identity("net"))),
        "reference": (_bought_as, optional(REFERENCE)),
        "created_at_after": ("recorded_at__gte", optional(api.moment)),
        "created_at_before": ("recorded_at__lt", optional(api.moment)),
    }

    @api.answers(shapes.CardShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List cards"""
        return self.listed(request, shapes.CARDS, self.FILTERS, lambda rows: shapes.cards(rows, self.now))

    @api.answers(shapes.CardShape, status=201, refuses=OPENING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Open a card

        Splits the amount into sub-cards, links them by a network account and owes the insurer an enrolment. The holder
        is needed for named cards and from the regulated amount on.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> shapes.CardShape:
            order = Order(
                program=self.one(shapes.PROGRAMS, "prg", body["program"], ProgramNotFound),
                amount=body["prepaid_amount"],
                holder=Holder(**body.get("holder", {})),
                reference=body["reference"],
                payment_method=body["payment_method"],
                paid_at=self.now,
            )
            card = processing.open_card(order=order, now=self.now)
            return shapes.card(shapes.CARDS.get(pk=card.pk), self.now)

        return self.once(request, body, effect, status=201)


class OneCard(Endpoint):
    @api.answers(shapes.CardShape, refuses=[ledger.CardNotFound])
    def get(self, request: HttpRequest, card_id: str) -> HttpResponse:
        """Get a card"""
        api.read_query(request, {})
        return self.answer(shapes.card(self.one(shapes.CARDS, "crd", card_id, ledger.CardNotFound), self.now))


class TopUps(Endpoint):
    BODY: ClassVar = {
        "prepaid_amount": required(AMOUNT),
        "reference": required(REFERENCE),
        "payment_method": optional(PAID_BY),
    }
    EXAMPLE: ClassVar = {"prepaid_amount": 100000, "reference": "TOP-1"}

    @api.answers(shapes.CardShape, status=201, refuses=TOPPING_UP)
    def post(self, request: HttpRequest, card_id: str) -> HttpResponse:
        """Top up a card

        A new load with sub-cards of its own; the endorsement of the policy is owed. Without a way of paying it counts
        as paid like the load before it.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> shapes.CardShape:
            card = self.card(card_id)
            processing.top_up(
                merchant=self.merchant,
                card_id=card.pk,
                amount=body["prepaid_amount"],
                reference=body["reference"],
                payment_method=body.get("payment_method") or _paid_before(card),
                now=self.now,
            )
            return shapes.card(shapes.CARDS.get(pk=card.pk), self.now)

        return self.once(request, body, effect, status=201)


def _paid_before(card: Card) -> str:
    """How the card was last paid for: what a top-up that does not say is taken for."""
    return Load.objects.filter(card=card).order_by("-seq").values_list("payment_method", flat=True)[0]


class CardMoves(Endpoint):
    """What is done to a card for a reason; the answer is the card as it stands then."""

    BODY: ClassVar = {"reason": required(api.text(most=200))}
    EXAMPLE: ClassVar = {"reason": "the holder asked"}

    @api.answers(shapes.CardShape, refuses=MOVING)
    def post(self, request: HttpRequest, card_id: str) -> HttpResponse:
        body = api.read_body(request, self.BODY)

        def effect() -> dict[str, Any]:
            card = self.card(card_id)
            more = self.move(card=card, reason=body["reason"], by=self.by, now=self.now)
            return {**shapes.card(shapes.CARDS.get(pk=card.pk), self.now), **more}

        return self.once(request, body, effect, status=200)

    def move(self, **what: Any) -> dict[str, Any]:
        """Call the verb; returns what the answer says beside the card."""
        raise NotImplementedError


class Freeze(CardMoves):
    """Freeze a card"""

    def move(self, **what: Any) -> dict[str, Any]:
        processing.freeze(**what)
        return {}


class Unfreeze(CardMoves):
    """Unfreeze a card"""

    def move(self, **what: Any) -> dict[str, Any]:
        processing.unfreeze(**what)
        return {}


class ReportLost(CardMoves):
    """Report a card lost"""

    def move(self, **what: Any) -> dict[str, Any]:
        processing.report_lost(**what)
        return {}


class Replace(CardMoves):
    """Replace a lost card

    It gets a new number, which its holder receives from the staff; everything on it stays.
    """

    def move(self, **what: Any) -> dict[str, Any]:
        processing.replace(**what)  # the new number is for its holder, not for an answer
        return {}


class Close(CardMoves):
    @api.answers(shapes.ClosedCardShape, refuses=MOVING)
    def post(self, request: HttpRequest, card_id: str) -> HttpResponse:
        """Close a card

        Everything is taken off it, and its policy is cancelled. The answer says what principal is due back.
        """
        return super().post(request, card_id)

    def move(self, **what: Any) -> dict[str, Any]:
        return {"refund_due": processing.close(**what).principal}


class CardConsumption(Endpoint):
    QUERY: ClassVar = {"at": optional(api.moment)}

    @api.answers(shapes.ConsumptionShape, refuses=[ledger.CardNotFound, ledger.BeforeOpening])
    def get(self, request: HttpRequest, card_id: str) -> HttpResponse:
        """Get the consumption information of a card

        What occurred until the moment `at` (default: now), and the balance then.
        """
        at: datetime = api.read_query(request, self.QUERY).get("at", self.now)
        return self.answer(shapes.consumption(consumption.consumption(self.card(card_id), at), self.zone))


class CardValuation(Endpoint):
    QUERY: ClassVar = {"at": optional(api.moment), "cause": optional(api.choice([cause.value for cause in Cause]))}

    @api.answers(shapes.ValuationShape, refuses=[ledger.CardNotFound, ledger.BeforeOpening])
    def get(self, request: HttpRequest, card_id: str) -> HttpResponse:
        """Value a card

        Usable balance and refundable principal as at the moment `at` (default: now), for the operator's cause unless
        the consumer's is asked for, with the calculation.
        """
        query = api.read_query(request, self.QUERY)
        at: datetime = query.get("at", self.now)
        card = self.card(card_id)
        valued = consumption.valuation_at(card, at, cause=Cause(query.get("cause", Cause.OPERATOR)))
        return self.answer(shapes.valued(card, at, valued, self.zone))


# Transactions -------------------------------------------------------------------------------------------------------


class Payments(Endpoint):
    scopes: ClassVar = {"post": "payments:write"}
    counted: ClassVar = {"post": "payment"}
    BODY: ClassVar = {
        "list_amount": optional(AMOUNT),
        "uses": optional(AMOUNT),
        "reference": required(REFERENCE),
        "store": optional(api.text(most=32)),
        "occurred_at": optional(api.moment),
    }
    EXAMPLE: ClassVar = {"list_amount": 50000, "reference": "ORDER-1", "store": "S-01"}

    @api.answers(shapes.TransactionShape, status=201, refuses=PAYING)
    def post(self, request: HttpRequest, card_id: str) -> HttpResponse:
        """Take a payment

        A list amount, or uses for a card that counts them. A card with a rate is charged list amount × rate.
        """
        body = api.read_body(request, self.BODY)
        found = _found_or(ledger.CardNotFound, "crd", card_id)
        return self.post_to_ledger(request, body, ledger.pay, card_id=found)


class Refunds(Endpoint):
    scopes: ClassVar = {"post": "payments:write"}
    counted: ClassVar = {"post": "payment"}
    BODY: ClassVar = {
        "amount": optional(AMOUNT),
        "reference": required(REFERENCE),
        "occurred_at": optional(api.moment),
    }
    EXAMPLE: ClassVar = {"amount": 10000, "reference": "BACK-1"}

    @api.answers(shapes.TransactionShape, status=201, refuses=REFUNDING)
    def post(self, request: HttpRequest, transaction_id: str) -> HttpResponse:
        """Refund a payment

        In part, or without an amount whatever is left of it. The amount is in the card's unit.
        """
        body = api.read_body(request, self.BODY)
        found = _found_or(ledger.TransactionNotFound, "txn", transaction_id)
        return self.post_to_ledger(request, body, ledger.refund, transaction_id=found)


class Reversals(Endpoint):
    scopes: ClassVar = {"post": "payments:write"}
    counted: ClassVar = {"post": "payment"}
    BODY: ClassVar = {"reference": required(REFERENCE), "occurred_at": optional(api.moment)}
    EXAMPLE: ClassVar = {"reference": "UNDO-1"}

    @api.answers(shapes.TransactionShape, status=201, refuses=REVERSING)
    def post(self, request: HttpRequest, transaction_id: str) -> HttpResponse:
        """Reverse a payment

        Undoes it whole, if nothing of it was refunded.
        """
        body = api.read_body(request, self.BODY)
        found = _found_or(ledger.TransactionNotFound, "txn", transaction_id)
        return self.post_to_ledger(request, body, ledger.reverse, transaction_id=found)


class Transactions(Endpoint):
    FILTERS: ClassVar[Filters] = {
        "card": ("card", optional(api.identity("crd"))),
        "kind": ("kind", optional(api.choice(Transaction.Kind.values))),
        "reference": (_referred_to_as, optional(REFERENCE)),
        "store": ("store", optional(api.text(most=32))),
        "created_at_after": ("recorded_at__gte", optional(api.moment)),
        "created_at_before": ("recorded_at__lt", optional(api.moment)),
        "occurred_at_after": ("occurred_at__gte", optional(api.moment)),
        "occurred_at_before": ("occurred_at__lt", optional(api.moment)),
    }

    @api.answers(shapes.TransactionShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List transactions"""
        return self.listed(
            request, Transaction.objects.all(), self.FILTERS, lambda rows: shapes.transactions(rows, self.zone)
        )


class OneTransaction(Endpoint):
    @api.answers(shapes.TransactionShape, refuses=[ledger.TransactionNotFound])
    def get(self, request: HttpRequest, transaction_id: str) -> HttpResponse:
        """Get a transaction"""
        api.read_query(request, {})
        row = self.one(Transaction.objects.all(), "txn", transaction_id, ledger.TransactionNotFound)
        return self.answer(shapes.transactions([row], self.zone)[0])


# Policies -----------------------------------------------------------------------------------------------------------


class Policies(Endpoint):
    FILTERS: ClassVar[Filters] = {
        "state": ("state", optional(api.choice(Policy.State.values))),
        "card": ("card", optional(api.identity("crd"))),
        "created_at_after": ("recorded_at__gte", optional(api.moment)),
        "created_at_before": ("recorded_at__lt", optional(api.moment)),
    }

    @api.answers(shapes.PolicyShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List policies"""
        return self.listed(
            request, shapes.POLICIES, self.FILTERS, lambda rows: [shapes.policy(row, self.zone) for row in rows]
        )


class OnePolicy(Endpoint):
    @api.answers(shapes.PolicyShape, refuses=[PolicyNotFound])
    def get(self, request: HttpRequest, policy_id: str) -> HttpResponse:
        """Get a policy"""
        api.read_query(request, {})
        return self.answer(shapes.policy(self.one(shapes.POLICIES, "pol", policy_id, PolicyNotFound), self.zone))


class Certificate(Endpoint):
    @api.answers(shapes.CertificateShape, refuses=[CertificateNotFound])
    def get(self, request: HttpRequest, policy_id: str) -> HttpResponse:
        """Get the certificate of a policy

        For a policy that was accepted, with the endorsements that were.
        """
        api.read_query(request, {})
        accepted = shapes.POLICIES.exclude(policy_no=None)
        return self.answer(shapes.certificate(self.one(accepted, "pol", policy_id, CertificateNotFound), self.zone))


# Claims -------------------------------------------------------------------------------------------------------------


class Claims(Endpoint):
    scopes: ClassVar = {"get": "cards:read", "post": "claims:write"}
    BODY: ClassVar = {"card": required(api.naming("crd")), "reference": required(REFERENCE)}
    EXAMPLE: ClassVar = {"card": example_of("crd"), "reference": "CLAIM-1"}
    FILTERS: ClassVar[Filters] = {
        "state": ("state", optional(api.choice(Claim.State.values))),
        "kind": ("kind", optional(api.choice(Claim.Kind.values))),
        "card": ("card", optional(api.identity("crd"))),
        "reference": ("reference", optional(REFERENCE)),
        "created_at_after": ("filed_at__gte", optional(api.moment)),
        "created_at_before": ("filed_at__lt", optional(api.moment)),
    }

    @api.answers(shapes.ClaimShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List claims

        Without their calculation sheets.
        """
        return self.listed(
            request, shapes.CLAIMS, self.FILTERS, lambda rows: [shapes.claim(row, self.zone) for row in rows]
        )

    @api.answers(shapes.OneClaimShape, status=201, refuses=FILING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """File a claim

        Notice of loss for one card, once an insured event of the merchant is confirmed. The card is frozen at the
        moment of loss.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> dict[str, Any]:
            card = self.card(body["card"])
            filed = adjudication.file_claim(card=card, by=self.by, now=self.now, reference=body["reference"])
            return shapes.one_claim(shapes.CLAIMS.get(pk=filed.pk), self.zone)

        return self.once(request, body, effect, status=201)


class OneClaim(Endpoint):
    @api.answers(shapes.OneClaimShape, refuses=[ClaimNotFound])
    def get(self, request: HttpRequest, claim_id: str) -> HttpResponse:
        """Get a claim"""
        api.read_query(request, {})
        return self.answer(shapes.one_claim(self.one(shapes.CLAIMS, "clm", claim_id, ClaimNotFound), self.zone))
