"""Cutout behind the interfaces of annotation tools."""
