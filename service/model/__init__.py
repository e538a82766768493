"""The model: torch lives here, and nothing here knows of HTTP, Redis or Prometheus."""
