"""What staff write down about a card: kept for ever, without the numbers somebody may have typed into it."""

from datetime import datetime

from django.utils.translation import gettext_lazy as _

from config import audit
from config.errors import Refused
from prepaid.models import Card, Note


class NoteEmpty(Refused):
    status = 400
    text = _("There is nothing to write down.")


def note(*, card: Card, text: str, by: str, now: datetime) -> Note:
    """Write a note on a card; of full numbers and codes in it only the end is kept.

    :raises NoteEmpty:
    """
    if not text.strip():
        raise NoteEmpty(pointer="/text")
    return Note.objects.create(card=card, text=audit.masked(text.strip())[:1000], by=by, recorded_at=now)
