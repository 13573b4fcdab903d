"""What is said: events, topics, reason words, errors, identities. No I/O."""
