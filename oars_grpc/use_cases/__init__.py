"""One class per service, one method per rpc: load, decide, write once."""
