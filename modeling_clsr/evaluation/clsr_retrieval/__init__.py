"""The ranking measures as an `evaluate.Metric`."""
