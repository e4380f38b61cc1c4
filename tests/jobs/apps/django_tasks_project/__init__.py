"""A Django project whose tasks are those of `tests.jobs.promises`."""
