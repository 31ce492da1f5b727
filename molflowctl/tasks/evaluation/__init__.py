"""Measure flows and libraries."""
