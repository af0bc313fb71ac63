"""Events and webhooks: real transactions, real HTTP to a process of its own that can be told to misbehave."""
