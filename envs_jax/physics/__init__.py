"""Worlds with contact, on brax."""
