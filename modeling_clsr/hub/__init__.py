"""Checkpoints: read other layouts, find the default parts, write a folder."""
