"""The commands: where the rooms are wired together. May import everything; nothing imports it but `prodrome`."""
