"""The ledger's functions, triggers and privileges, from the file that is read as their source."""

from pathlib import Path

from django.db import migrations

LEDGER = Path(__file__).resolve().parent.parent / "sql" / "ledger.sql"


class Migration(migrations.Migration):
    dependencies = [
        ("prepaid", "0001_initial"),
        ("config", "0001_application_role"),
        ("issuing", "0004_events_and_webhooks"),
    ]
    operations = [migrations.RunSQL(LEDGER.read_text(encoding="utf-8"), migrations.RunSQL.noop)]
