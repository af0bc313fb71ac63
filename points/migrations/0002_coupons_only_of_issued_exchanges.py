"""A coupon exists only while its exchange is ISSUED, and what happened to a coupon is not changed afterwards."""

from django.db import migrations

# The key is the pair of the exchange and the word ISSUED: an exchange that has coupons can take no other state, and
# one in another state can be given none. Issued and reversed exclude each other whatever the program does.
RULES = """
ALTER TABLE points_coupon ADD COLUMN exchange_state varchar(10) NOT NULL GENERATED ALWAYS AS ('ISSUED') STORED;
ALTER TABLE points_coupon ADD CONSTRAINT coupons_only_of_issued_exchanges
    FOREIGN KEY (exchange_id, exchange_state) REFERENCES points_exchange (id, state);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON points_couponmove
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON points_couponmove FROM prepaid_app;
"""


class Migration(migrations.Migration):
    dependencies = [("points", "0001_initial"), ("prepaid", "0002_ledger")]
    operations = [migrations.RunSQL(RULES, migrations.RunSQL.noop)]
