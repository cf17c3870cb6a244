"""Timing work on a GPU: by the device's own clock, with what the device did meanwhile beside each sample."""
