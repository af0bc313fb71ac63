"""What the type checker reads: the business side and its partners, which never meet in one process, at once."""

from tests.settings import *  # noqa: F403  a settings module is a list of names
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "insurance.sandbox", "points.system"]
INSURER_CALLBACK_URL = POINTS_SYSTEM_CALLBACK_URL = ""
