"""The functions that move points, from the file that is read as their source, and the one row of behaviour."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "points_system.sql"


class Migration(migrations.Migration):
    dependencies = [("points_system", "0001_initial")]
    operations = [
        migrations.RunSQL(SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop),
        migrations.RunSQL(
            "INSERT INTO points_system_behaviour (id, kind, type, seconds, callback_url) VALUES (1, 'GOOD', '', 15, '')",
            migrations.RunSQL.noop,
        ),
    ]
