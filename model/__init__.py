"""ReT-2 in PyTorch: inputs, preprocessing, backbones, the recurrent cell, checkpoints, training and evaluation.

Importing the package imports nothing; torch comes with the modules that need it.
"""
