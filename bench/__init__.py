"""Speed and memory, as ratios measured side by side, and the studies whose tables are in
``docs/results``: ``python -m bench [NAME ...]`` from a checkout. Nothing of the product imports it.
"""
