"""Every test here asks the points system in its own process."""

from tests.partners import partner_process, points_system

__all__ = ["partner_process", "points_system"]
