"""Prepare data sets: from public sources, from own files, from other data sets."""
