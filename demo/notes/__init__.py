"""Synthetic clinical notes with exact labels, for a demo without corpora. No text of a real note is in here.

Sentences are composed of labelled pieces, so every entity's place is known by construction. Three house styles: a
teaching hospital's discharge summaries, an emergency department's telegraphic notes, a clinic's letters. What is
medically plausible comes from `tables/`, how a house words it from `houses/`.
"""
