"""What participants' authors test their services with."""

from tcc.testing import conformance

__all__ = ["conformance"]
