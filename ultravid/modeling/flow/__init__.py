"""Optical flow between two frames, and warping along it."""
