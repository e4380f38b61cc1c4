"""A configuration of gunicorn that patches before the app is preloaded.

gunicorn itself patches in its workers, when the app has its locks and threads already.
"""

from gevent import monkey

monkey.patch_all()
