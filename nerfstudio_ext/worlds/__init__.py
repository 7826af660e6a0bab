"""Captures of things that exist only as numbers: random scenes to train GNT on, with exact cameras and depths.

`compose` makes a scene from a seed, `rigs` puts cameras around it, `tracing` takes the pictures, `captures` does all
three; `train_gnt` learns from them.
"""
