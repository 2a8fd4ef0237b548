"""The APIs that the server speaks: their requests, and how they write answers."""
