"""The web process with one more address, to measure others beside."""

from config.settings import *  # noqa: F403  a settings module is a list of names

ROOT_URLCONF = "tests.benchmarks.bare"
