"""API keys and their tenants, rate limits, and stored responses to Idempotency-Keys."""
