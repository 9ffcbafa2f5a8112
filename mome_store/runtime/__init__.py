"""The runtime: leases over the experts of a snapshot. The kernels' torch operator is in `mome_store.runtime.apply`."""

from mome_store.runtime.expert_cache import ExpertCache, RoutedExperts
from mome_store.runtime.lease import Lease

__all__ = ["ExpertCache", "Lease", "RoutedExperts"]
