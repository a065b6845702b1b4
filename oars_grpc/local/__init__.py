"""A whole stack on one machine: what `oars dev`, the demo and the tests start around the server."""
