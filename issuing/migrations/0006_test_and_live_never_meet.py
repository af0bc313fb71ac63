"""A test twin has no twin, and who is live stays live: were it otherwise, keys and cards would change sides with it."""

from django.db import migrations

RULES = """
CREATE FUNCTION merchant_keeps_its_side() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE 'a merchant is live or for tests for ever' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'a_merchant_keeps_its_side';
    ELSIF (SELECT test_of_id IS NOT NULL FROM issuing_merchant WHERE id = NEW.test_of_id) THEN
        RAISE 'a test twin has no twin' USING ERRCODE = 'check_violation', CONSTRAINT = 'a_test_twin_has_no_twin';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER has_no_twin BEFORE INSERT ON issuing_merchant
    FOR EACH ROW WHEN (NEW.test_of_id IS NOT NULL) EXECUTE FUNCTION merchant_keeps_its_side();
CREATE TRIGGER keeps_its_side BEFORE UPDATE OF test_of_id ON issuing_merchant
    FOR EACH ROW WHEN (OLD.test_of_id IS DISTINCT FROM NEW.test_of_id) EXECUTE FUNCTION merchant_keeps_its_side();
-- A key does not change hands either: live or test is its merchant's affair, and so is whose cards it opens.
CREATE FUNCTION key_keeps_its_merchant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'a key belongs to one merchant for ever' USING ERRCODE = 'check_violation',
        CONSTRAINT = 'a_key_keeps_its_merchant';
END $$;
CREATE TRIGGER keeps_its_merchant BEFORE UPDATE OF merchant_id ON issuing_merchantkey
    FOR EACH ROW WHEN (OLD.merchant_id IS DISTINCT FROM NEW.merchant_id) EXECUTE FUNCTION key_keeps_its_merchant();
"""
UNDO = """
DROP FUNCTION merchant_keeps_its_side CASCADE;
DROP FUNCTION key_keeps_its_merchant CASCADE;
"""


class Migration(migrations.Migration):
    dependencies = [("issuing", "0005_test_twins_and_key_rotation")]
    operations = [migrations.RunSQL(RULES, UNDO)]
