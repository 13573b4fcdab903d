"""How the outside is reached: settings, spool, objects, Kafka, Cassandra, metrics, logs, clock."""
