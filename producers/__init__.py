"""From a source to `instance.received`: receiver and relay."""
