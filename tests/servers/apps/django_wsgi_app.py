"""Every scene on Django over WSGI, our middleware around it and in its `MIDDLEWARE`."""

from __future__ import annotations

from django.core.wsgi import get_wsgi_application
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import usercontext.wsgi

from . import django_views, scenes
from .outside import OutsideWSGI

scenes.start()
django_views.configure()

middleware = usercontext.wsgi.UserContextMiddleware
below = {**scenes.mounted_wsgi_apps(), **scenes.RAW}
once = middleware(DispatcherMiddleware(get_wsgi_application(), below), resolver=scenes.resolver)
twice = middleware(once, resolver=scenes.resolver)
application = scenes.publish(OutsideWSGI(once, {"/twice": twice}))
