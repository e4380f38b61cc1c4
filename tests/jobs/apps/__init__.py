"""The apps whose workers are run: each names its jobs as `tests.jobs.promises` calls them."""
