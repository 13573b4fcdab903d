"""From a topic to a durable effect: deidentify, catalog, ledger, score."""
