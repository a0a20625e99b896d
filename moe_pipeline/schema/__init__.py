"""The data that flows through MoEverse: pydantic only, no torch."""
