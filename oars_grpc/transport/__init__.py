"""Messages to core values and back, identity, access, status codes: everything gRPC."""
