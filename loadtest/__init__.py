"""A stranger to the service: measures it over HTTP and imports nothing of it."""
