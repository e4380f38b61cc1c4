"""Half of what `django-admin startproject` writes: found, and never imported."""
