"""What every test may rely on."""

from collections.abc import Iterator
from datetime import date

import pytest
from django.db import connections
from hypothesis import settings
from pytest_django.plugin import DjangoDbBlocker

from config import translations
from issuing.models import Regulation

# How long an example takes is the database's and the machine's affair; it proves nothing about the example.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_sessionstart() -> None:
    """The tests read the translations as they stand."""
    translations.compile_all()


KEEP_STATISTICS = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE 'ALTER TABLE ' || name || ' SET (autovacuum_enabled = off)';
    END LOOP;
END $$
"""


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The database of the tests.

    Autovacuum would come by while a test holds its rows uncommitted, note the tables down as empty, and have the
    next statements planned for one row each. And Django closes the owner's door only before it drops the database.
    """
    with django_db_blocker.unblock(), connections["owner"].cursor() as cursor:
        cursor.execute(KEEP_STATISTICS)
    yield
    connections.close_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every test that needs the database name both doors to it.

    ``default`` is a mirror of ``owner``: only databases that a test names are made, and after a test that really
    commits only the owner may empty the tables.
    """
    for item in items:
        if "races" in item.path.parts:
            # One after the other: two of them at once would ask the server for more connections than it has.
            item.add_marker(pytest.mark.xdist_group("races"))
        marker = item.get_closest_marker("django_db")
        if marker and "databases" not in marker.kwargs:
            item.add_marker(pytest.mark.django_db(**{**marker.kwargs, "databases": ["default", "owner"]}), append=False)


@pytest.fixture(autouse=True)
def _national_regulation(request: pytest.FixtureRequest) -> None:
    """Put back what a migration seeded, after a test that really commits has had its tables emptied."""
    marker = request.node.get_closest_marker("django_db")
    if marker and marker.kwargs.get("transaction"):
        request.getfixturevalue("transactional_db")
        Regulation.objects.get_or_create(region="", valid_from_date=date(2012, 11, 1))
