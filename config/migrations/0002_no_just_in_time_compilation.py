"""Statements here are either short or one pass over many rows: compiling them first (jit) took up to ten times as long
as they do. Set on the database, so that it holds for every connection, whatever pooler stands between."""

from django.db import migrations

MAKE = """
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET jit = off', current_database());
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'only the owner of the database can set jit = off; ask for it: large jobs are slow without';
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("config", "0001_application_role")]
    operations = [migrations.RunSQL(MAKE, migrations.RunSQL.noop)]
