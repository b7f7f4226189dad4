"""Test tools: FakeCoordinator for initiators; the module `conformance` for participants."""

from tcc.testing.fake_coordinator import FakeCoordinator

__all__ = ["FakeCoordinator"]
