"""The numbers policies are given, and the one row of behaviour."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("insurer", "0001_initial")]

    operations = [
        migrations.RunSQL("CREATE SEQUENCE insurer_policy_no", "DROP SEQUENCE insurer_policy_no"),
        migrations.RunSQL(
            "INSERT INTO insurer_behaviour (id, kind, type, seconds, every, code, callback_url)"
            " VALUES (1, 'GOOD', '', 15, 1, '1009', '')",
            "DELETE FROM insurer_behaviour",
        ),
    ]
