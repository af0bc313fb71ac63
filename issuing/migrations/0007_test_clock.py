"""A test merchant has a clock of its own that goes ahead, and comes back from a failure that was a drill."""

from django.db import migrations, models

RULES = """
-- A failure in earnest is for ever: its cards are compensated, and nothing more may be sold on its name.
CREATE FUNCTION failed_merchant_stays_failed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'only a test merchant comes back from a failure' USING ERRCODE = 'check_violation',
        CONSTRAINT = 'a_failed_merchant_stays_failed';
END $$;
CREATE TRIGGER stays_failed BEFORE UPDATE OF state ON issuing_merchant
    FOR EACH ROW WHEN (OLD.state = 'FAILED' AND NEW.state <> 'FAILED' AND OLD.test_of_id IS NULL)
    EXECUTE FUNCTION failed_merchant_stays_failed();
-- Back in time, what was bought before would be bought in the future.
CREATE FUNCTION test_clock_goes_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'a test clock never goes back' USING ERRCODE = 'check_violation',
        CONSTRAINT = 'a_test_clock_never_goes_back';
END $$;
CREATE TRIGGER goes_forward BEFORE UPDATE OF test_clock_ahead ON issuing_merchant
    FOR EACH ROW WHEN (NEW.test_clock_ahead < OLD.test_clock_ahead) EXECUTE FUNCTION test_clock_goes_forward();
"""
UNDO = """
DROP FUNCTION failed_merchant_stays_failed CASCADE;
DROP FUNCTION test_clock_goes_forward CASCADE;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("issuing", "0006_test_and_live_never_meet"),
    ]

    operations = [
        migrations.AddField(
            model_name="merchant",
            name="test_clock_ahead",
            field=models.PositiveIntegerField(
                default=0,
                editable=False,
                help_text="seconds by which a test merchant's clock is ahead of ours",
                verbose_name="test clock ahead",
            ),
        ),
        migrations.AddConstraint(
            model_name="merchant",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("test_clock_ahead", 0),
                    models.Q(("test_clock_ahead__gt", 0), ("test_of__isnull", False)),
                    _connector="OR",
                ),
                name="only_a_test_merchant_has_a_clock_of_its_own",
            ),
        ),
        migrations.RunSQL(RULES, UNDO),
    ]
