"""Plugins of tetlo in Python."""
