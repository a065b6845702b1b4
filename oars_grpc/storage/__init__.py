"""Postgres behind the ports of `oars_grpc.core.ports`: rows to core values, and transactions."""
