"""`oars lattice`: settles embeddings in a file, ranks, judges and draws them, without a server."""

import click

from oars_grpc.cli.lazy_group import LazyGroup

# Where each command is.
_MODULES = {
    "chain": "lattice_chain",
    "plot": "lattice_plot",
    "query": "lattice_query",
    "receipt": "lattice_receipt",
    "settle": "lattice_settle",
}


@click.group(cls=LazyGroup, modules=_MODULES)
def lattice() -> None:
    """Lattices of embeddings in files: settle, query, receipt, chain and plot, without a server.

    FILE is NumPy's .npz or Parquet.

    Arrays of an .npz: anchors (N x D), query (D, or M x D), and where wanted gates (N), chain
    (nodes in order), chain_weights (one for each link), ids (N texts). Nothing in it is unpickled.

    Columns of a Parquet file, one row for each anchor: embedding (list of numbers), and where
    wanted gate, id (text), chain (the anchor's place in the chain, empty where it has none),
    chain_weight (of the link from the anchor before it in the chain). The query is in the
    file's metadata under `query`, a JSON list of numbers.

    --query FILE replaces the query: an .npy, the array `query` of an .npz, or the embeddings of a
    Parquet file.
    """
