"""Settings of the partner systems in tests: no connection is kept between messages.

The server has a hundred connections for all: races of fifty, and every process beside them.
"""

from config.partner_settings import *  # noqa: F403  a settings module is a list of names
from config.partner_settings import DATABASES

for _database in DATABASES.values():
    _database["CONN_MAX_AGE"] = 0
