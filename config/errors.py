"""Refusals: what the business says no to, by name."""

from __future__ import annotations

from typing import Any, ClassVar

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


class Refused(Exception):
    """A request the business refuses; the class name is the code that the API shows.

    Subclasses stand beside the verb that raises them and set ``status`` (HTTP) and ``text``
    (translatable, with %-parameters that the constructor takes by keyword). The text may be shown to the
    asker, so it never tells whether something of somebody else's exists. What merchants' programs run into also has a
    ``remedy``, and says whether the very same request may come through later: both stand in the catalogue.
    """

    status: ClassVar[int] = 409
    text: ClassVar[str | Promise] = _("The request was refused.")
    code: ClassVar[str] = "Refused"
    remedy: ClassVar[str | Promise] = ""
    can_be_sent_again: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = cls.__name__

    def __init__(self, *, pointer: str | None = None, **facts: Any) -> None:
        super().__init__()
        self.pointer = pointer
        self.facts = facts

    def __str__(self) -> str:
        return str(self.text) % self.facts


class NotFound(Refused):
    """Unknown and foreign are the same answer."""

    status = 404
    text = _("Not found.")
    remedy = _(
        "Check the address, and that the key is of the merchant and the side (test or live) that the id belongs to."
    )


class SamePerson(Refused):
    """Four eyes: one who prepares is never the one who lets through."""

    status = 403
    text = _("Whoever prepared this cannot decide it: a second person does.")


class NotTheMaker(Refused):
    """What waits for a second person is taken back by the first one, and by nobody else."""

    status = 403
    text = _("Only whoever prepared this takes it back.")
