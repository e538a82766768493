"""Who may call and how often: API keys, the tenants they speak for, rate limits, kept answers."""
