"""The merchant API against its contract: every answer of every test, the documents made of it, and schemathesis."""
