"""Tests of the built-in reporting client."""
