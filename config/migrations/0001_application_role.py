"""The role that the application runs under: it may read and write rows, and owns nothing."""

from django.db import migrations

MAKE = """
DO $$ BEGIN
    CREATE ROLE prepaid_app NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- roles belong to the server, not to one database
END $$;
GRANT prepaid_app TO CURRENT_USER;
GRANT USAGE ON SCHEMA public TO prepaid_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO prepaid_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO prepaid_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO prepaid_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO prepaid_app;
"""


class Migration(migrations.Migration):
    dependencies = []
    operations = [migrations.RunSQL(MAKE, migrations.RunSQL.noop)]
