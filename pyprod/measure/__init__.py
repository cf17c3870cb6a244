"""Measuring: clock, sampling, processes, statistics, records and reports. Knows no model: it could time a toaster."""
