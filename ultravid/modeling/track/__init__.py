"""Trackers: from detections of single frames to tracks."""
