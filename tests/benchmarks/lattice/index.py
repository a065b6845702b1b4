"""The product's index search, where its library is installed."""

import importlib.util

from oars_grpc.core.lattice.neighbors import NeighborSearch
from oars_grpc.neighbor_index import IndexedSearch


def index_search() -> NeighborSearch | None:
    """The search, or None without the extra `index`."""
    return IndexedSearch() if importlib.util.find_spec("faiss") else None
