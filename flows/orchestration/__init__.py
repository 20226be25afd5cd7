"""All that Prefect needs around the flows: retries, locks, progress, logs, Ray and deployments."""
