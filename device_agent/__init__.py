"""The agent on the phone: plans, loads and runs shards, and answers local HTTP calls. Never imports host."""
