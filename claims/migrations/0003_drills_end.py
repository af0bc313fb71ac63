"""The insured event of a test merchant was a drill, and ends: then there may be another."""

from django.conf import settings
from django.db import migrations, models

RULES = """
CREATE FUNCTION only_drills_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT test_of_id IS NULL FROM issuing_merchant WHERE id = NEW.merchant_id) THEN
        RAISE 'only the event of a test merchant ends' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'only_a_drill_ends';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER only_drills_end BEFORE INSERT OR UPDATE OF state ON claims_insuredevent
    FOR EACH ROW WHEN (NEW.state = 'ENDED') EXECUTE FUNCTION only_drills_end();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("claims", "0002_interest_rates"),
        ("issuing", "0007_test_clock"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="insuredevent",
            name="one_live_event_per_merchant",
        ),
        migrations.AlterField(
            model_name="insuredevent",
            name="state",
            field=models.CharField(
                choices=[
                    ("DECLARED", "declared"),
                    ("CONFIRMED", "confirmed"),
                    ("WITHDRAWN", "withdrawn"),
                    ("ENDED", "drill ended"),
                ],
                default="DECLARED",
                max_length=9,
                verbose_name="state",
            ),
        ),
        migrations.AddConstraint(
            model_name="insuredevent",
            constraint=models.UniqueConstraint(
                models.F("merchant"),
                condition=models.Q(("state__in", ["WITHDRAWN", "ENDED"]), _negated=True),
                name="one_live_event_per_merchant",
            ),
        ),
        migrations.RunSQL(RULES, "DROP FUNCTION only_drills_end CASCADE"),
    ]
