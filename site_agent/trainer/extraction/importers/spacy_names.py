"""The names that spaCy 3 does not hash but numbers, as far as words and types of a document may be among them.

Source: ``spacy.symbols.IDS`` of spaCy 3.8. A number that is neither here nor a hash is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_FLAGS = (
    "IS_ALPHA IS_ASCII IS_DIGIT IS_LOWER IS_PUNCT IS_SPACE IS_TITLE IS_UPPER LIKE_URL LIKE_NUM LIKE_EMAIL IS_STOP "
    "IS_OOV_DEPRECATED IS_BRACKET IS_QUOTE IS_LEFT_PUNCT IS_RIGHT_PUNCT IS_CURRENCY"
)
_ATTRIBUTES = (
    "ID ORTH LOWER NORM SHAPE PREFIX SUFFIX LENGTH CLUSTER LEMMA POS TAG DEP ENT_IOB ENT_TYPE HEAD SENT_START SPACY "
    "PROB LANG ADJ ADP ADV AUX CONJ CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X EOL SPACE"
)
_TYPES_AND_RELATIONS = (
    "PERSON NORP FACILITY ORG GPE LOC PRODUCT EVENT WORK_OF_ART LANGUAGE LAW DATE TIME PERCENT MONEY QUANTITY "
    "ORDINAL CARDINAL acomp advcl advmod agent amod appos attr aux auxpass cc ccomp complm conj cop csubj "
    "csubjpass dep det dobj expl hmod hyph infmod intj iobj mark meta neg nmod nn npadvmod nsubj nsubjpass num "
    "number oprd obj obl parataxis partmod pcomp pobj poss possessive preconj prep prt punct quantmod relcl rcmod "
    "root xcomp acl ENT_KB_ID MORPH ENT_ID IDX _"
)
# Each run of names, by the number of its first.
_RUNS = {1: _FLAGS, 64: _ATTRIBUTES, 380: _TYPES_AND_RELATIONS}

NUMBERED: Mapping[int, str] = MappingProxyType(
    {first + place: name for first, names in _RUNS.items() for place, name in enumerate(names.split())}
)
