"""Which database holds what in the partner process: each partner system has its own, and none reads another's."""

from typing import Any

ALIASES = {"points_system": "points_system"}
"""App label to database alias; all else lies in the first partner's database, with the staff of all."""


class EachItsOwn:
    """Every model to its system's database; nothing across."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return ALIASES.get(model._meta.app_label, "default")

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return self.db_for_read(model)

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return self.db_for_read(one) == self.db_for_read(other)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return ALIASES.get(app_label, "default") == db
