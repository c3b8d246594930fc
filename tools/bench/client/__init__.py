"""The load generator: as light as it can be, because it shares the machine with the server."""
