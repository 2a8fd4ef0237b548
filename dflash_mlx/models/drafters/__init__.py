"""Drafters: proposers of blocks. `base.Drafter` is the contract."""
