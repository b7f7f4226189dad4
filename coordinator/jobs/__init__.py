"""The periodic jobs: expire, retry, adopt, watch, purge, reconcile, report."""
