"""By when what is owed to a claimant: the clocks of the Insurance Law (保险法), arts. 22–25.

papers   art. 22   what is missing is asked for once; until it has come the other clocks stand still
decide   art. 23   within 30 days of the claim, or of the papers that completed it
pay      art. 23   within 10 days of the agreement
refuse   art. 24   with reasons, within 3 days of finding that nothing is covered
advance  art. 25   what is certain already, when 60 days have passed without a payment
"""

from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _

from claims.models import Claim
from config.errors import Refused
from config.states import IllegalMove

DECIDE = timedelta(days=30)
PAY = timedelta(days=10)
REFUSE = timedelta(days=3)
ADVANCE = timedelta(days=60)


class PapersNeeded(Refused):
    status = 422
    text = _("Name the papers that are missing.")


class PapersAskedFor(Refused):
    text = _("Papers were asked for already: whatever is missing is asked for once (Insurance Law, art. 22).")


class PapersNotAskedFor(Refused):
    text = _("No papers are awaited for this claim.")


def ask_for_papers(*, claim: Claim, papers: str, now: datetime) -> None:
    """Ask the claimant for everything that is missing, once.

    :raises PapersNeeded, PapersAskedFor:
    :raises IllegalMove: the claim is decided.
    """
    if not papers.strip():
        raise PapersNeeded(pointer="/papers")
    asked = Claim.objects.filter(_UNDECIDED, pk=claim.pk, papers_asked_at=None).update(
        papers=papers.strip()[:300], papers_asked_at=now
    )
    claim.refresh_from_db()
    if not asked:
        if claim.papers_asked_at is None:
            raise IllegalMove(state=claim.state)
        raise PapersAskedFor()


def receive_papers(*, claim: Claim, now: datetime) -> None:
    """Record that the papers asked for have come: the clock of the decision starts.

    :raises PapersNotAskedFor: or they have come before.
    """
    received = Claim.objects.filter(pk=claim.pk, papers_asked_at__isnull=False, papers_received_at=None).update(
        papers_received_at=now
    )
    claim.refresh_from_db()
    if not received:
        raise PapersNotAskedFor()


def due_at(claim: Claim) -> datetime | None:
    """By when the next thing is owed for this claim; None while papers are awaited and when it is over."""
    match claim.state:
        case Claim.State.FILED | Claim.State.ASSESSED:
            if claim.papers_asked_at and not claim.papers_received_at:
                return None
            decide_by = (claim.papers_received_at or claim.filed_at) + DECIDE
            if claim.state == Claim.State.ASSESSED and not claim.payable and claim.assessed_at:
                return min(decide_by, claim.assessed_at + REFUSE)
            return decide_by
        case Claim.State.APPROVED:
            return claim.decided_at and claim.decided_at + PAY
    return None


# The same as conditions, for lists: each gives the claims for which that clock has run out.

_UNDECIDED = Q(state__in=[Claim.State.FILED, Claim.State.ASSESSED])
_COMPLETE = Q(papers_asked_at=None) | Q(papers_received_at__isnull=False)


def _complete_before(moment: datetime) -> Q:
    return Q(papers_received_at__lt=moment) | Q(papers_asked_at=None, filed_at__lt=moment)


def to_decide(now: datetime) -> QuerySet[Claim]:
    return Claim.objects.filter(_UNDECIDED, _complete_before(now - DECIDE))


def to_refuse(now: datetime) -> QuerySet[Claim]:
    return Claim.objects.filter(state=Claim.State.ASSESSED, payable=0, assessed_at__lt=now - REFUSE).filter(_COMPLETE)


def to_pay(now: datetime) -> QuerySet[Claim]:
    return Claim.objects.filter(state=Claim.State.APPROVED, decided_at__lt=now - PAY)


def to_advance(now: datetime) -> QuerySet[Claim]:
    """Assessed, so something is certain, and nothing paid for sixty days."""
    unpaid = Claim.objects.filter(state__in=[Claim.State.ASSESSED, Claim.State.APPROVED], payable__gt=0)
    return unpaid.filter(_complete_before(now - ADVANCE))


def overdue(now: datetime) -> QuerySet[Claim]:
    """Every claim for which some clock has run out."""
    late = (queryset(now).values("pk") for queryset in (to_decide, to_refuse, to_pay, to_advance))
    return Claim.objects.filter(Q(*(Q(pk__in=claims) for claims in late), _connector=Q.OR))
