"""A merchant with its key, a stranger with his, and what both own."""

import pytest

from issuing.models import Merchant
from tests.api.asking import Asker, asker, insured


@pytest.fixture
def merchant(db: None) -> Merchant:
    return insured()


@pytest.fixture
def lotus(merchant: Merchant) -> Asker:
    """The merchant's own program, with every scope."""
    return asker(merchant)


@pytest.fixture
def stranger(db: None) -> Asker:
    """Another merchant, who may do everything with what is his."""
    return asker(insured(name="Stranger"))
