"""The ledger: jobs, artifacts and the queue, shared by service and worker."""
