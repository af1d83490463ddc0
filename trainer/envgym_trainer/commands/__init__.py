"""Commands of the trainer, one file each; `envgym.commands.registry` describes the contract.

Parsing the arguments does not import torch. Files without `run` are helpers.
"""
