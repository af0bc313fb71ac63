"""State moves along a table, by one conditional UPDATE."""

from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from config.errors import Refused


class IllegalMove(Refused):
    """The row is not, or no longer, in a state from which this move leads."""

    status = 409
    text = _("This is no longer possible: the record is in state %(state)s. Reload and look again.")
    remedy = _("Ask for the record: somebody was first.")


class Moving(models.Model):
    """A row whose ``state`` only moves along ``MOVES``, a table of state to the states it may go to."""

    MOVES: ClassVar[dict[str, set[str]]]
    state: Any

    class Meta:
        abstract = True

    def hold(self) -> None:
        """Lock the row and read it anew: until the transaction ends it stays what is decided about."""
        self.refresh_from_db(from_queryset=type(self)._base_manager.select_for_update())

    def move(self, to: str, **facts: Any) -> None:
        """Go to state ``to`` and set ``facts``, if the row is still in the state it was read in.

        One UPDATE decides between any number of callers: zero rows means someone was first.

        :raises IllegalMove: the table has no such move, or the row has moved on meanwhile.
        """
        model: Any = type(self)  # the column stands in the subclass
        if to not in self.MOVES.get(self.state, ()):
            raise IllegalMove(state=self.state)
        if not model._base_manager.filter(pk=self.pk, state=self.state).update(state=to, **facts):
            raise IllegalMove(state=model._base_manager.values_list("state", flat=True).get(pk=self.pk))
        self.state = to
        for name, value in facts.items():
            setattr(self, name, value)
