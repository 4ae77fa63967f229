"""Programs that use the service as a user would."""
