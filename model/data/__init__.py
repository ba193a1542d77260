"""Interaction logs: the tidy format, its readers, and the protocol that turns a log into targets."""
