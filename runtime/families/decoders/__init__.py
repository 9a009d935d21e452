"""Decoder language models: the family, what stands between its maps, its weights and its loss.

Others use `decoder.DecoderFamily` alone, through `runtime.families.known_families`.
"""
