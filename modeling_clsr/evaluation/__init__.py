"""Measuring: numbers in, numbers with their intervals out."""
