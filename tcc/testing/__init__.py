"""Test tools for participants."""

from tcc.testing import conformance

__all__ = ["conformance"]
