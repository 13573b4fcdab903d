"""The parts of one machine: Kafka and Cassandra as plain processes, and the supervisor that keeps them."""
