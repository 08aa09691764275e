"""Household chores after ALFWorld's text games."""
